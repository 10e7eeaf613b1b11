#include "cuda/launch/engine.cuh"

namespace lily::cuda {

const EngineFunctions kExactFunctions = kFunctionsOf<Exact>;

}  // namespace lily::cuda
