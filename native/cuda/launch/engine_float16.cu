// The engine of float16, apart from the others because the library has machine code of it for fewer GPUs
// (scripts/cuda-targets.js).
#include "cuda/launch/engine.cuh"

namespace lily::cuda {

const EngineFunctions kFloat16Functions = kFunctionsOf<Tensor<__half>>;

}  // namespace lily::cuda
