// The operations of the C ABI: selects the engine and forwards the call to it.
#include <algorithm>

#include "core/problem.h"
#include "cuda/error.h"
#include "cuda/launch.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

const EngineFunctions &engine(const lily_problem &problem, const Device &device) {
  switch (engine_kind(problem, device)) {
    case EngineKind::kTf32: return kTf32Functions;
    case EngineKind::kBfloat16: return kBfloat16Functions;
    case EngineKind::kFloat16: return kFloat16Functions;
    default: return kExactFunctions;
  }
}

lily_status check(const lily_problem &problem, const Device **found) {
  const char *error = problem_error(problem);
  if (error != nullptr) return fail(LILY_ERROR_ARGUMENT, "%s", error);
  if (problem.d_in > kMostColumns || problem.d_out > kMostColumns)
    return fail(LILY_ERROR_UNSUPPORTED, "the CUDA backend supports d_in and d_out up to %d", kMostColumns);
  *found = device(problem.device);
  return *found == nullptr ? LILY_ERROR_UNAVAILABLE : LILY_OK;
}

void defer(lily_forward &) {}

void defer(lily_backward &call) {
  static float any;
  call.deferred_db = &any;
}

// A workspace size that suffices for every call of the problem. It is the maximum over what a call may add: with
// `fixed` routing the offsets select the formulation, and a deferred dB changes how tokens are split.
template <typename Call, typename Function>
lily_status workspace(const lily_problem *problem, size_t *bytes, Function EngineFunctions::*function) {
  const Device *device = nullptr;
  const lily_status status = check(*problem, &device);
  if (status != LILY_OK) return status;
  static const int32_t any_offsets[2] = {0, 0};
  *bytes = 0;
  const int variants = deferred_partials(*problem) > 0 ? 4 : 2;
  for (int variant = 0; variant < variants; ++variant) {
    Call call = {};
    call.problem = *problem;
    call.tokens.sequence_offsets = variant % 2 == 0 ? nullptr : any_offsets;
    if (variant / 2 != 0) defer(call);
    size_t needed = 0;
    const lily_status planned = (engine(*problem, *device).*function)(call, *device, &needed);
    if (planned != LILY_OK) return planned;
    *bytes = std::max(*bytes, needed);
  }
  return LILY_OK;
}

template <typename Call, typename Function>
lily_status run(const Call &call, size_t needed, Function EngineFunctions::*function) {
  if (call.workspace_bytes < needed)
    return fail(LILY_ERROR_ARGUMENT, "the workspace has %zu bytes, %zu are needed", call.workspace_bytes, needed);
  const Device *device = nullptr;
  const lily_status status = check(call.problem, &device);
  if (status != LILY_OK) return status;
  return (engine(call.problem, *device).*function)(call, *device, nullptr);
}

}  // namespace

lily_status forward_workspace(const lily_problem *problem, size_t *bytes) {
  return workspace<lily_forward>(problem, bytes, &EngineFunctions::forward);
}

lily_status backward_workspace(const lily_problem *problem, size_t *bytes) {
  return workspace<lily_backward>(problem, bytes, &EngineFunctions::backward);
}

lily_status forward(const lily_forward *call) {
  size_t needed = 0;
  const lily_status status = forward_workspace(&call->problem, &needed);
  return status == LILY_OK ? run(*call, needed, &EngineFunctions::forward) : status;
}

lily_status backward(const lily_backward *call) {
  size_t needed = 0;
  const lily_status status = backward_workspace(&call->problem, &needed);
  return status == LILY_OK ? run(*call, needed, &EngineFunctions::backward) : status;
}

// A fold of more layers than one launch's parameters hold takes further launches, in order.
lily_status fold(const lily_fold *call) {
  Fold batch = {};
  batch.rank = static_cast<int>(call->rank);
  batch.experts = static_cast<int>(call->experts);
  batch.columns = static_cast<int>(call->d_out);
  batch.db = output(call->db);
  int64_t next = 0;
  do {
    batch.count = static_cast<int>(std::min<int64_t>(call->layer_count - next, kFoldLayers));
    for (int i = 0; i < batch.count; ++i) {
      const lily_deferred &layer = call->layers[next + i];
      batch.layers[i] = {layer.partial, layer.weights, layer.groups};
    }
    const lily_status status = launch_fold(batch, reinterpret_cast<cudaStream_t>(call->stream));
    if (status != LILY_OK) return status;
    batch.db.accumulate = 1;
    next += batch.count;
  } while (next < call->layer_count);
  return LILY_OK;
}

// Turing has neither TF32 nor bfloat16.
lily_status prepare(const Device &device) {
  LILY_TRY(kExactFunctions.prepare(device));
  LILY_TRY(kFloat16Functions.prepare(device));
  if (device.compute_major < 8) return LILY_OK;
  LILY_TRY(kTf32Functions.prepare(device));
  return kBfloat16Functions.prepare(device);
}

}  // namespace lily::cuda
