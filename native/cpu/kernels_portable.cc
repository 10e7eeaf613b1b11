// 16-byte vectors, 16 registers: every x86-64 processor has them (SSE2), and every arm64 processor has more registers.
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 16
#define LILY_KERNELS kKernelsPortable
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
