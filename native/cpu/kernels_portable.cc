// Vectors of 16 bytes: what every x86-64 (SSE2) and every arm64 (NEON) processor has.
#define LILY_VECTOR_BYTES 16
#define LILY_KERNELS kKernelsPortable
#define LILY_OPERAND Floats
#include "cpu/kernels_impl.h"
