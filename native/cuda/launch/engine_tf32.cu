#include "cuda/launch/engine.cuh"

namespace lily::cuda {

const EngineFunctions kTf32Functions = kFunctionsOf<Tf32>;

}  // namespace lily::cuda
