// Skylake-X and later, Zen 4 and later: 64-byte vectors, 32 registers.
#define LILY_VECTOR_BYTES 64
#define LILY_VECTOR_REGISTERS 32
#define LILY_KERNELS kKernelsAvx512
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
