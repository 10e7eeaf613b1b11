// Haswell and later, Zen and later: 32-byte vectors with fused multiply-add.
#define LILY_VECTOR_BYTES 32
#define LILY_VECTOR_REGISTERS 16
#define LILY_KERNELS kKernelsAvx2
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
