#include "cuda/launch/engine.cuh"

namespace lily::cuda {

const EngineFunctions kFloat16Functions = kFunctionsOf<Tensor<__half>>;

}  // namespace lily::cuda
