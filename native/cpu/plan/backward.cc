#include <algorithm>

#include "core/problem.h"
#include "cpu/plan/call.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/products.h"
#include "cpu/pooling.h"

namespace lily::cpu {
namespace {

// has_gradient of a BackwardPass; null if every token has a gradient.
const uint8_t *find_gradients(const BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  const uint8_t *mask = pass.call->tokens.mask;
  if (!has_router(problem) || problem.routing == LILY_ROUTING_TOKEN) return nullptr;
  uint8_t *const has_gradient = workspace.take<uint8_t>(problem.tokens);
  if (mask == nullptr || has_gradient == nullptr) return nullptr;
  bool all = true;
  for (int64_t group = 0; group < pass.groups.count; ++group) {
    const int64_t begin = pass.groups.begin(group), end = pass.groups.end(group);
    const bool keeps = std::any_of(mask + begin, mask + end, [](uint8_t keep) { return keep != 0; });
    std::fill(has_gradient + begin, has_gradient + end, static_cast<uint8_t>(keeps));
    all = all && (keeps || begin == end);
  }
  return all ? nullptr : has_gradient;
}

// What the outputs of the call require.
void find_needs(BackwardPass &pass) {
  const lily_backward &call = *pass.call;
  const lily_problem &problem = call.problem;
  const bool has_deferred = call.deferred_db != nullptr && deferred_partials(problem) > 0;
  pass.d_mixture = problem.routing == LILY_ROUTING_LEARNED ? call.d_router : call.d_weights;
  pass.needs_d_hidden = call.dx.data != nullptr || call.da.data != nullptr || needs_d_router(pass);
  pass.needs_d_weights = pass.d_mixture.data != nullptr ||
                         (pass.needs_d_hidden && has_router(problem) && problem.routing != LILY_ROUTING_TOKEN);
  pass.needs_db = call.db.data != nullptr || has_deferred;
  pass.needs_d_combined = pass.needs_db || pass.needs_d_weights;
  pass.deferred_is_weighted = deferred_is_weighted(problem);
}

// dy, x and dx of the tokens.
void take_rows(BackwardPass &pass, Workspace &workspace) {
  const lily_backward &call = *pass.call;
  const lily_problem &problem = call.problem;
  const int32_t *const rows = call.tokens.rows;
  pass.dy_rows = {call.dy, nullptr};
  pass.x_rows = {call.x, nullptr};
  pass.dx_rows = {call.dx, rows};
  if (rows != nullptr || call.tokens.scale != nullptr) {
    pass.dy_rows.matrix = take_matrix(workspace, problem.tokens, problem.d_out, problem.activation_dtype);
  }
  if (rows == nullptr) return;
  pass.x_rows.matrix = take_matrix(workspace, problem.tokens, problem.d_in, problem.activation_dtype);
}

// Gathers what the passes read, before the other steps.
void add_gather(const Kernels &kernels, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  const lily_tokens &tokens = pass.call->tokens;
  const int64_t tasks = divide_up(pass.call->problem.tokens, kGatherTile);
  if (tokens.rows != nullptr || tokens.scale != nullptr) plan.steps.add(tasks, kernels.gather_dy);
  if (tokens.rows != nullptr && pass.call->da.data != nullptr) {
    plan.steps.add(tasks, kernels.gather_backward_x, true);
  }
}

// The left operand of D, and q.
void take_lhs_and_q(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  pass.hidden = {const_cast<void *>(pass.call->hidden), problem.rank, hidden_dtype(problem), 0};
  if (token_routing) pass.u = take_matrix(workspace, problem.tokens, pass.stack.rank, kernels.dtype);
  pass.lhs = token_routing ? pass.u : pass.hidden;
  RowPartials &q = pass.q_partials;
  q.pitch = round_up(pass.stack.rank, kernels.lanes);
  q.data = workspace.take<float>(q.count * q.rows * q.pitch);
}

// `step_depth`: of the product with A, for which rows of d_hidden_lhs are padded.
void take_d_hidden(BackwardPass &pass, const Kernels &kernels, int64_t step_depth, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  pass.rank_pitch = round_up(problem.rank, kernels.lanes);
  pass.d_hidden = workspace.take<float>(problem.tokens * pass.rank_pitch);
  pass.d_hidden_lhs = {pass.d_hidden, pass.rank_pitch, LILY_FLOAT32, 0};
  if (kernels.dtype == LILY_FLOAT32) return;
  const int64_t pitch = std::max(pass.rank_pitch, round_up(problem.rank, step_depth));
  pass.d_hidden_lhs = take_matrix(workspace, problem.tokens, pitch, kernels.dtype);
}

// There is memory for them whatever the type of db, because the size of the workspace depends on the problem alone.
void take_db_sums(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  if (problem.parameter_dtype == LILY_FLOAT32 || pass.groups.count == 1) return;
  const int64_t pitch = round_up(problem.d_out, kernels.lanes);
  pass.db_sums = take_matrix(workspace, problem.experts * problem.rank, pitch, LILY_FLOAT32);
  if (pass.call->db.dtype == LILY_FLOAT32) pass.db_sums.data = nullptr;
}

// dw, dp or dl, and R.
void take_routing_gradients(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  if (problem.routing == LILY_ROUTING_UNIFORM || problem.routing == LILY_ROUTING_NONE) return;
  const int64_t weights = pass.groups.count * problem.experts;
  pass.d_weights.partials = workspace.take<double>(pass.d_weights.count * weights);
  pass.d_pooled = workspace.take<float>(weights + kernels.lanes);  // write_d_mixture reads whole vectors
  if (!has_router(problem)) return;
  pass.router_packed = workspace.take<float>(problem.experts * pass.rank_pitch);
  pass.d_logits = workspace.take<float>(problem.tokens * problem.experts);
}

template <typename Products>
BackwardPlan plan_with(const Products &products, const lily_backward &call, const Kernels &kernels,
                       Workspace &workspace) {
  const lily_problem &problem = call.problem;
  BackwardPlan plan = {};
  BackwardPass &pass = plan.pass;

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, step_tokens(products), workspace);
  take_rows(pass, workspace);
  pass.has_gradient = find_gradients(pass, workspace);
  pass.stack = stack_of(problem, call.b, call.weights);
  find_needs(pass);

  plan_dy_pass(products, kernels, pass, workspace);
  take_lhs_and_q(pass, kernels, workspace);
  take_d_hidden(pass, kernels, step_tokens(products), workspace);
  take_db_sums(pass, kernels, workspace);
  take_routing_gradients(pass, kernels, workspace);
  pass.router.tiles = tiles_for_scratch(problem.rank, problem.experts, kernels.panel, 1);
  plan_x_pass(products, kernels, pass, workspace);

  plan.scratch_floats = round_up(products.backward_scratch(pass), Workspace::kAlignment / sizeof(float));

  const bool needs_dy = pass.needs_d_hidden || pass.needs_d_combined;
  if (needs_dy) add_gather(kernels, plan);
  if (pass.u.data != nullptr) plan.steps.add(pass.groups.tile_count(), kernels.compute_u);
  if (needs_dy) add_dy_pass(products, plan);
  if (pass.needs_d_weights) plan.steps.add(1, compute_d_pooled);
  if (pass.d_mixture.data != nullptr) plan.steps.add(1, kernels.write_d_mixture);
  if (!pass.needs_d_hidden) return plan;
  if (pass.router_packed != nullptr) plan.steps.add(1, kernels.pack_router_rows);
  add_d_hidden(products, kernels, plan);
  return plan;
}

}  // namespace

// The size of the workspace depends on the problem, and on whether the tokens have rows and factors, so that it is
// enough for any set of outputs.
BackwardPlan plan_call(const lily_backward &call, const Kernels &kernels, Workspace &workspace) {
  return with_products(kernels, call.problem,
                       [&](const auto &products) { return plan_with(products, call, kernels, workspace); });
}

BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels) {
  Workspace workspace(call.workspace);
  BackwardPlan plan = plan_call(call, kernels, workspace);
  take_scratch(plan, workspace);
  return plan;
}

}  // namespace lily::cpu
