// The passes of kernels_amx_terms.cc on a model of its instructions.
#define LILY_INLINE inline       // a small file matters, speed does not; every processor runs these instructions
#define LILY_FLUSHES_SUBNORMALS  // as VCVTNEPS2BF16 does
#define LILY_OPERAND TileTerms
#define LILY_TILES "cpu/amx/model.h"
#define LILY_KERNELS kKernelsAmxTermsModel
#define LILY_DIRECT_PRODUCTS kDirectAmxModel
#define LILY_SHARES_DIRECT
#include "cpu/amx/kernels_impl.h"
