// The passes of kernels_amx.cc on a model of its instructions.
#include "cpu/amx/model.h"

#define LILY_KERNELS kKernelsAmxModel
#define LILY_FLUSHES_SUBNORMALS  // as VCVTNEPS2BF16 does
#include "cpu/amx/kernels_impl.h"
