#include "cpu/plan.h"

#include <algorithm>

#include "core/problem.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// Weight of the one "expert" of LoRA and of token routing; zeros for the one group that no token belongs to.
constexpr float kOne = 1.0f;
const float kZeros[kMaxExperts] = {};

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
int64_t round_up(int64_t value, int64_t multiple) { return divide_up(value, multiple) * multiple; }

// About `count` slabs of whole panels.
Slabs cut(int64_t columns, int64_t count, int64_t panel) {
  const int64_t width = round_up(divide_up(columns, std::max<int64_t>(count, 1)), panel);
  return {columns, width, divide_up(columns, width)};
}

// Scratch of rank x width floats stays within this: half of a usual L2 cache (1 MiB) leaves room for activations.
constexpr int64_t kSlabFloats = 128 * 1024;

// Tasks that give every thread two: an unlucky thread then delays less.
int64_t wanted_tasks() { return 2 * static_cast<int64_t>(thread_count()); }

// Slabs none of which is wider than the scratch allows.
Slabs cut_for_scratch(int64_t columns, int64_t rank, int64_t panel, int64_t count) {
  const int64_t widest = std::max(panel, kSlabFloats / rank / panel * panel);
  return cut(columns, std::max(divide_up(columns, widest), count), panel);
}

// Slabs whose sums are added up, so that the cut decides how a result is rounded: it depends on the columns alone, not
// on M nor on the threads. About 512 columns, four slabs where that leaves two panels to each, and an even number,
// which two threads share evenly.
Slabs cut_for_sum(int64_t columns, int64_t panel) {
  const int64_t count = std::max(divide_up(columns, 512), std::min<int64_t>(4, columns / 128));
  return cut(columns, count <= 1 ? 1 : round_up(count, 2), panel);
}

// At most this many blocks, wherever the groups begin.
int64_t most_blocks(const lily_problem &problem) { return divide_up(problem.tokens, kTokenBlock) + problem.groups; }

Groups groups_of(const lily_problem &problem, const lily_tokens &tokens, Workspace &workspace) {
  // No sequences means no tokens: one empty group, so that gradients that are overwritten become zero.
  if (problem.groups == 0) return {.offsets = nullptr, .count = 1, .tokens = 0, .first_blocks = nullptr};
  Groups groups = {.offsets = nullptr, .count = problem.groups, .tokens = problem.tokens, .first_blocks = nullptr};
  if (!may_have_groups(problem)) return groups;
  int32_t *const first_blocks = workspace.take<int32_t>(problem.groups + 1);
  if (tokens.sequence_offsets == nullptr || first_blocks == nullptr) return groups;
  groups.offsets = tokens.sequence_offsets;
  groups.first_blocks = first_blocks;
  first_blocks[0] = 0;
  for (int64_t group = 0; group < problem.groups; ++group) {
    const int64_t blocks = divide_up(groups.end(group) - groups.begin(group), kTokenBlock);
    first_blocks[group + 1] = first_blocks[group] + static_cast<int32_t>(blocks);
  }
  return groups;
}

Mixture mixture_of(const lily_problem &problem, const lily_matrix &b, const float *weights) {
  Mixture mixture = {
      .b = b,
      .experts = problem.experts,
      .rank = problem.rank,
      .transposed = false,
      .scaling = problem.scaling,
      .weights = problem.groups == 0 ? kZeros : weights,
  };
  if (problem.routing == LILY_ROUTING_TOKEN) {
    mixture.experts = 1;
    mixture.rank = problem.experts * problem.rank;
    mixture.weights = &kOne;
  } else if (problem.routing == LILY_ROUTING_NONE) {
    mixture.transposed = true;
    mixture.weights = &kOne;
  }
  return mixture;
}

// rows x columns in the workspace.
lily_matrix take_matrix(Workspace &workspace, int64_t rows, int64_t columns, int32_t dtype) {
  return {workspace.take<char>(rows * columns * dtype_bytes(dtype)), columns, dtype, 0};
}

}  // namespace

ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  ForwardPlan plan = {};
  ForwardPass &pass = plan.pass;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, workspace);
  // Chunks of 512 tokens pay for packing A once each. Where there are not enough of them, slabs are tasks of their own;
  // each costs another partial sum of h.
  pass.shrink_slabs = cut_for_sum(problem.d_in, kernels.panel);
  pass.shrink_chunk = 512;
  pass.shrink_chunks = std::max<int64_t>(1, divide_up(problem.tokens, pass.shrink_chunk));
  pass.partial_count = pass.shrink_chunks >= thread_count() ? 1 : pass.shrink_slabs.count;
  pass.rank_pitch = round_up(problem.rank, kernels.lanes);
  pass.packed_slabs =
      pass.partial_count > 1
          ? 1
          : std::clamp<int64_t>(kSlabFloats * kernels.depth / (pass.shrink_slabs.width * pass.rank_pitch), 1,
                                pass.shrink_slabs.count);
  pass.expert_pitch = round_up(problem.experts, kernels.lanes);
  pass.partial = workspace.take<float>(pass.partial_count * problem.tokens * pass.rank_pitch);
  pass.hidden = take_matrix(workspace, problem.tokens, problem.rank, hidden_dtype(problem));
  if (call.hidden != nullptr) pass.hidden.data = call.hidden;
  pass.probabilities = keeps_probabilities(problem) ? call.probabilities : nullptr;
  if (token_routing) {
    pass.mixed_hidden = take_matrix(workspace, problem.tokens, problem.experts * problem.rank, kernels.dtype);
  }
  if (has_router(problem)) {
    pass.router_packed = workspace.take<float>(problem.rank * pass.expert_pitch);
    pass.pool_sums = workspace.take<float>(most_blocks(problem) * problem.experts);
  }
  float *const own_weights = workspace.take<float>(problem.groups * problem.experts);
  plan.weights = call.weights != nullptr ? call.weights : own_weights;
  pass.mixture = mixture_of(problem, call.b, plan.weights);
  pass.left = token_routing ? pass.mixed_hidden : pass.hidden;
  // Chunks of tokens rather than slabs: whole rows of y stay with one thread. Each chunk combines C anew, which 32 E
  // tokens pay for.
  const int64_t fewest_slabs = cut_for_scratch(problem.d_out, pass.mixture.rank, kernels.panel, 1).count;
  const int64_t worth = std::max<int64_t>(1, problem.tokens / (32 * pass.mixture.experts));
  const int64_t chunks = std::min(divide_up(wanted_tasks(), fewest_slabs), worth);
  pass.expand_chunk = round_up(std::max<int64_t>(1, divide_up(problem.tokens, chunks)), kernels.tile_rows);
  pass.expand_chunks = divide_up(problem.tokens, pass.expand_chunk);
  pass.expand_slabs =
      cut_for_scratch(problem.d_out, pass.mixture.rank, kernels.panel, divide_up(wanted_tasks(), chunks));

  plan.scratch_floats = round_up(kernels.forward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  BackwardPlan plan = {};
  BackwardPass &pass = plan.pass;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, workspace);
  pass.mixture = mixture_of(problem, call.b, call.weights);
  pass.wants_hidden_gradient = call.dx.data != nullptr || call.da.data != nullptr || call.d_router.data != nullptr;
  const bool has_deferred = call.deferred_db != nullptr && deferred_partials(problem) > 0;
  pass.wants_db = call.db.data != nullptr || has_deferred;
  pass.deferred_is_weighted = deferred_is_weighted(problem);
  pass.wants_weight_gradient = pass.wants_hidden_gradient && has_router(problem) && !token_routing;

  pass.dy_slabs = cut_for_sum(problem.d_out, kernels.panel);  // q has a partial sum per slab
  pass.dy_width = std::min(pass.dy_slabs.width,
                           std::max(kernels.panel, kSlabFloats / pass.mixture.rank / kernels.panel * kernels.panel));
  // The sums of an outer product are read and written once per step: the larger they are, the longer the step.
  pass.token_step = pass.mixture.rank <= 64 ? 24 : 96;
  pass.left_pitch = round_up(pass.mixture.rank, kernels.lanes);
  pass.rank_pitch = round_up(problem.rank, kernels.lanes);
  pass.hidden = {const_cast<void *>(call.hidden), problem.rank, hidden_dtype(problem), 0};
  if (token_routing) pass.mixed_hidden = take_matrix(workspace, problem.tokens, pass.mixture.rank, kernels.dtype);
  pass.left = token_routing ? pass.mixed_hidden : pass.hidden;
  pass.q_partial = workspace.take<float>(pass.dy_slabs.count * problem.tokens * pass.left_pitch);
  pass.dh = workspace.take<float>(problem.tokens * pass.rank_pitch);
  pass.dh_left = {pass.dh, pass.rank_pitch, LILY_FLOAT32, 0};
  if (kernels.dtype != LILY_FLOAT32) {
    pass.dh_left = take_matrix(workspace, problem.tokens, pass.rank_pitch, kernels.dtype);
  }
  if (problem.parameter_dtype != LILY_FLOAT32 && pass.groups.count > 1) {
    const int64_t pitch = round_up(problem.d_out, kernels.lanes);
    pass.db_sums = take_matrix(workspace, problem.experts * problem.rank, pitch, LILY_FLOAT32);
    if (call.db.dtype == LILY_FLOAT32) pass.db_sums.data = nullptr;
  }
  if (has_router(problem)) {
    pass.weight_gradient = workspace.take<double>(pass.dy_slabs.count * pass.groups.count * problem.experts);
    pass.group_gradient = workspace.take<float>(pass.groups.count * problem.experts);
    pass.router_packed = workspace.take<float>(problem.experts * pass.rank_pitch);
    pass.dl = workspace.take<float>(problem.tokens * problem.experts);
  }
  pass.x_slabs = cut_for_scratch(problem.d_in, problem.rank, kernels.panel, wanted_tasks());
  pass.router_slabs = cut_for_scratch(problem.rank, problem.experts, kernels.panel, 1);

  plan.scratch_floats = round_up(kernels.backward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Slabs plan_fold(const lily_fold &call, const Kernels &kernels) {
  return cut(call.d_out, wanted_tasks(), kernels.panel);
}

}  // namespace lily::cpu
