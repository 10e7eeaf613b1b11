// Sapphire Rapids and later: products of bfloat16 tiles.
#define LILY_OPERAND TilePairs
#define LILY_TILES "cpu/amx/hardware.h"
#define LILY_KERNELS kKernelsAmx
#define LILY_DIRECT_PRODUCTS kDirectAmx
#include "cpu/amx/kernels_impl.h"
