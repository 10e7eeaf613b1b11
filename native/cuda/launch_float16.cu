#include "cuda/launch.cuh"

namespace lily::cuda {

const EngineFunctions kFloat16Functions = kFunctionsOf<Tensor<__half>>;

}  // namespace lily::cuda
