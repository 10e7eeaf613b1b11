// Sapphire Rapids and later: products of bfloat16 tiles.
#define LILY_OPERAND TilePairs
#define LILY_TILES "cpu/amx/hardware.h"
#define LILY_KERNELS kKernelsAmx
#include "cpu/amx/kernels_impl.h"
