// Sapphire Rapids and later: products of bfloat16 tiles.
#include "cpu/amx/hardware.h"

#define LILY_KERNELS kKernelsAmx
#include "cpu/amx/kernels_impl.h"
