#include "cuda/launch/engine.cuh"

namespace lily::cuda {

const EngineFunctions kBfloat16Functions = kFunctionsOf<Tensor<__nv_bfloat16>>;

}  // namespace lily::cuda
