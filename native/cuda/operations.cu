// The operations of the C ABI: each plans a call and executes the plan.
#include <algorithm>
#include <span>
#include <vector>

#include "core/problem.h"
#include "cuda/error.h"
#include "cuda/launch/cublaslt.h"
#include "cuda/launch/launch.h"
#include "cuda/launch/plan_linear.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

const EngineFunctions &functions(EngineKind engine) {
  switch (engine) {
    case EngineKind::kTf32: return kTf32Functions;
    case EngineKind::kBfloat16: return kBfloat16Functions;
    case EngineKind::kFloat16: return kFloat16Functions;
    default: return kExactFunctions;
  }
}

// What the device and the workspace do not suffice for.
template <typename Call, typename Plan>
lily_status check(const Call &call, const Plan &plan) {
  if (!plan.is_supported) return fail(LILY_ERROR_UNSUPPORTED, "no tile fits into the shared memory of this device");
  if (call.workspace_bytes < plan.workspace_bytes)
    return fail(LILY_ERROR_ARGUMENT, "the workspace has %zu bytes, %zu are needed", call.workspace_bytes,
                plan.workspace_bytes);
  return LILY_OK;
}

Alignment alignment(const lily_matrix &matrix) { return operand(matrix).aligned16 ? kAligned : kMisaligned; }

}  // namespace

size_t forward_workspace(const lily_problem &problem, const Device &device) {
  return forward_workspace_bytes(problem, device);
}

size_t backward_workspace(const lily_problem &problem, const Device &device) {
  return backward_workspace_bytes(problem, device);
}

namespace {

ForwardPlan plan_of(const lily_forward &call, const Device &device, int64_t all_tokens = 0) {
  ForwardOperands operands = {};
  operands.has_offsets = call.tokens.sequence_offsets != nullptr;
  operands.has_weights = call.weights != nullptr;
  operands.hidden_is_aligned =
      call.hidden != nullptr && contiguous(call.hidden, call.problem.rank, hidden_dtype(call.problem)).aligned16;
  operands.has_scale = call.tokens.scale != nullptr;
  operands.x = call.tokens.rows != nullptr ? kMisaligned : alignment(call.x);
  operands.a = alignment(call.a);
  operands.b = alignment(call.b);
  return plan_forward(call.problem, operands, device, nullptr, all_tokens);
}

// Not for all tokens of a list: sums of gradients would then be split otherwise than in the call alone.
BackwardPlan plan_of(const lily_backward &call, const Device &device, int64_t /*all_tokens*/ = 0) {
  BackwardOperands operands = {};
  operands.has_offsets = call.tokens.sequence_offsets != nullptr;
  operands.has_mask = call.tokens.mask != nullptr;
  operands.defers_db = call.deferred_db != nullptr;
  operands.has_dx = call.dx.data != nullptr;
  operands.has_da = call.da.data != nullptr;
  operands.has_d_router = call.d_router.data != nullptr;
  operands.has_db = call.db.data != nullptr;
  operands.has_d_weights = call.d_weights.data != nullptr;
  const bool scatters = call.tokens.rows != nullptr;
  operands.dy = scatters || call.tokens.scale != nullptr ? kMisaligned : alignment(call.dy);
  operands.x = scatters ? kMisaligned : alignment(call.x);
  operands.a = alignment(call.a);
  operands.b = alignment(call.b);
  operands.hidden = alignment({const_cast<void *>(call.hidden), call.problem.rank, hidden_dtype(call.problem), 0});
  return plan_backward(call.problem, operands, device);
}

// Each call of a list has a workspace of its own, since their steps run together.
size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

template <typename Plan>
size_t workspace_bytes(const std::vector<Plan> &plans) {
  size_t bytes = 0;
  for (const Plan &plan : plans) bytes += aligned(plan.workspace_bytes);
  return bytes;
}

template <typename Plan, typename List>
std::vector<Plan> plans_of(const List &list, const Device &device) {
  std::vector<Plan> plans;
  for (const auto &call : std::span(list.calls, static_cast<size_t>(list.count)))
    plans.push_back(plan_of(call, device, list.tokens));
  return plans;
}

// `output`: y or dx, of whose rows those become zero that no call has.
template <typename Plan, typename List, typename Run>
lily_status run_rows(const List &list, const Device &device, const lily_matrix &output, int64_t columns, Run run) {
  const std::vector<Plan> plans = plans_of<Plan>(list, device);
  const std::span calls(list.calls, static_cast<size_t>(list.count));
  size_t offset = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    calls[i].workspace = static_cast<char *>(list.workspace) + offset;
    calls[i].workspace_bytes = list.workspace_bytes - std::min(offset, list.workspace_bytes);
    LILY_TRY(check(calls[i], plans[i]));
    offset += aligned(plans[i].workspace_bytes);
  }
  Launcher launcher(list.stream, device);
  const auto all_rows = static_cast<int>(list.tokens);
  if (list.rest_count > 0 && output.data != nullptr && !output.accumulate)
    LILY_TRY(launch_clear(output, static_cast<int>(columns), {list.rest, all_rows}, static_cast<int>(list.rest_count),
                          launcher));
  if (plans.empty()) return LILY_OK;
  return (functions(plans[0].engine).*run)({calls, plans.data(), all_rows}, launcher);
}

}  // namespace

lily_status forward(const lily_forward &call, const Device &device) {
  const ForwardPlan plan = plan_of(call, device);
  LILY_TRY(check(call, plan));
  if (call.unchecked_offsets != nullptr) {
    // A launcher of its own: the launches of the plan read the offsets before they wait for the one before them.
    Launcher first(call.stream, device);
    auto *offsets = const_cast<int32_t *>(call.tokens.sequence_offsets);
    LILY_TRY(launch_ascend(
        {call.unchecked_offsets, offsets, call.problem.groups + 1, static_cast<int>(call.problem.tokens)}, first));
  }
  Launcher launcher(call.stream, device);
  return functions(plan.engine).forward({{&call, 1}, &plan, 0}, launcher);
}

lily_status backward(const lily_backward &call, const Device &device) {
  const BackwardPlan plan = plan_of(call, device);
  LILY_TRY(check(call, plan));
  Launcher launcher(call.stream, device);
  return functions(plan.engine).backward({{&call, 1}, &plan, 0}, launcher);
}

size_t forward_rows_workspace(const lily_forward_rows &list, const Device &device) {
  return workspace_bytes(plans_of<ForwardPlan>(list, device));
}

size_t backward_rows_workspace(const lily_backward_rows &list, const Device &device) {
  return workspace_bytes(plans_of<BackwardPlan>(list, device));
}

lily_status forward_rows(const lily_forward_rows &list, const Device &device) {
  return run_rows<ForwardPlan>(list, device, list.y, list.d_out, &EngineFunctions::forward);
}

lily_status backward_rows(const lily_backward_rows &list, const Device &device) {
  return run_rows<BackwardPlan>(list, device, list.dx, list.d_in, &EngineFunctions::backward);
}

size_t linear_workspace(const lily_linear_problem &problem, const Device &device) {
  const size_t casts = plan_linear(problem, {}, device).workspace_bytes;
  return suits_cublaslt(problem, device) && operations_use_cublaslt() ? std::max(kProductWorkspaceBytes, casts) : casts;
}

lily_status linear(const lily_linear &call, const Device &device) {
  if (call.problem.tokens == 0) return LILY_OK;
  if (suits_cublaslt(call.problem, device) && operations_use_cublaslt()) {
    const lily_status status = linear_by_cublaslt(call, device);
    if (status != LILY_ERROR_UNAVAILABLE) return status;
  }
  const LinearPlan plan = plan_linear(call.problem, {alignment(call.x), alignment(call.weight)}, device);
  if (!plan.is_supported) return fail(LILY_ERROR_UNSUPPORTED, "the product is too large for one launch");
  LILY_TRY(check(call, plan));
  Launcher launcher(call.stream, device);
  return functions(plan.engine).linear(call, plan, launcher);
}

// A fold of more layers than one launch's parameters hold takes further launches, in order.
lily_status fold(const lily_fold &call, const Device &device) {
  Launcher launcher(call.stream, device);
  Fold batch = {};
  batch.rank = static_cast<int>(call.rank);
  batch.experts = static_cast<int>(call.experts);
  batch.columns = static_cast<int>(call.d_out);
  batch.db = output(call.db);
  int64_t next = 0;
  do {
    batch.count = static_cast<int>(std::min<int64_t>(call.layer_count - next, kFoldLayers));
    for (int i = 0; i < batch.count; ++i) {
      const lily_deferred &layer = call.layers[next + i];
      batch.layers[i] = {layer.partial, layer.weights, layer.groups};
    }
    LILY_TRY(launch_fold(batch, launcher));
    batch.db.accumulate = 1;
    next += batch.count;
  } while (next < call.layer_count);
  return LILY_OK;
}

lily_status draw(const lily_draw &call, const Device &device) {
  Launcher launcher(call.stream, device);
  return launch_draw({call.state, call.draw}, launcher);
}

lily_status load_kernels(const Device &device) {
  KernelLoader load;
  load_common(load);
  load_adamw(load);
  for (const EngineKind engine : {EngineKind::kExact, EngineKind::kTf32, EngineKind::kBfloat16})
    functions(engine).load(load);
  // From 10.0 on the driver would compile it first, which takes long; a call that uses it waits for that in any case.
  if (device.compute_major < 10) functions(EngineKind::kFloat16).load(load);
  return load.status();
}

}  // namespace lily::cuda
