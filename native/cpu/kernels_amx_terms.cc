// The products of kernels_amx.cc for float32 numbers as sums of two bfloat16 numbers.
#define LILY_OPERAND TileTerms
#define LILY_TILES "cpu/amx/hardware.h"
#define LILY_KERNELS kKernelsAmxTerms
#define LILY_DIRECT_PRODUCTS kDirectAmx
#define LILY_SHARES_DIRECT
#include "cpu/amx/kernels_impl.h"
