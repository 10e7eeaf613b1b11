// Vectors of 16 bytes, 16 registers: what every x86-64 processor has (SSE2), and less than every arm64 one has.
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 16
#define LILY_KERNELS kKernelsPortable
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
