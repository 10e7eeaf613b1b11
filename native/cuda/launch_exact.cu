#include "cuda/launch_engine.cuh"

namespace lily::cuda {

const EngineFunctions kExactFunctions = kFunctionsOf<Exact>;

}  // namespace lily::cuda
