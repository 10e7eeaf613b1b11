// Cooper Lake and Sapphire Rapids, Zen 4 and later: AVX-512 with dot products of bfloat16 pairs.
#define LILY_VECTOR_BYTES 64
#define LILY_VECTOR_REGISTERS 32
#define LILY_KERNELS kKernelsAvx512Bf16
#define LILY_OPERAND Pairs
#include "cpu/kernels_impl.h"
