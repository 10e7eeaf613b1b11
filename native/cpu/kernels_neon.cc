// Every arm64 processor: 16-byte vectors, 32 registers.
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 32
#define LILY_KERNELS kKernelsNeon
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
