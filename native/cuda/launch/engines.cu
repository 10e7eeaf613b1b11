// All engines except float16. Most of their kernels differ in the instructions of a product and in the types of
// loads only: in one object, and near each other in it, they compress to little more than a single engine's.
#include "cuda/launch/engine.cuh"

namespace lily::cuda {

using Bfloat16 = Tensor<__nv_bfloat16>;

// In this order the compiler writes the kernels.
template lily_status run_forward<Bfloat16>(const ForwardCalls &, Launcher &);
template lily_status run_forward<Tf32>(const ForwardCalls &, Launcher &);
template lily_status run_forward<Exact>(const ForwardCalls &, Launcher &);
template lily_status run_backward<Bfloat16>(const BackwardCalls &, Launcher &);
template lily_status run_backward<Tf32>(const BackwardCalls &, Launcher &);
template lily_status run_backward<Exact>(const BackwardCalls &, Launcher &);
template lily_status run_linear<Bfloat16>(const lily_linear &, const LinearPlan &, Launcher &);
template lily_status run_linear<Tf32>(const lily_linear &, const LinearPlan &, Launcher &);
template lily_status run_linear<Exact>(const lily_linear &, const LinearPlan &, Launcher &);

const EngineFunctions kBfloat16Functions = kFunctionsOf<Bfloat16>, kTf32Functions = kFunctionsOf<Tf32>;
const EngineFunctions kExactFunctions = kFunctionsOf<Exact>;

}  // namespace lily::cuda
