#include "core/problem.h"
#include "cpu/plan/call.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/products.h"
#include "cpu/pooling.h"

namespace lily::cpu {
namespace {

// The largest number of token tiles for any offsets of the groups.
int64_t max_tile_count(const lily_problem &problem) { return divide_up(problem.tokens, kTokenTile) + problem.groups; }

// x and y of the tokens.
void take_rows(bool gathers, ForwardPass &pass, Workspace &workspace) {
  const lily_forward &call = *pass.call;
  const lily_problem &problem = call.problem;
  pass.x_rows = {call.x, call.tokens.rows};
  pass.y_rows = {call.y, call.tokens.rows};
  if (gathers) pass.x_rows = {take_matrix(workspace, problem.tokens, problem.d_in, problem.activation_dtype), nullptr};
}

// hidden and what follows from it: u, the probabilities and the sums of the pooled router.
void take_routing(ForwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_forward &call = *pass.call;
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN,
             has_u = token_routing || call.tokens.scale != nullptr;
  pass.hidden = take_matrix(workspace, problem.tokens, problem.rank, hidden_dtype(problem));
  if (call.hidden != nullptr) pass.hidden.data = call.hidden;
  if (has_u) {
    const int64_t stacked = token_routing ? problem.experts * problem.rank : problem.rank;
    pass.u = take_matrix(workspace, problem.tokens, stacked, kernels.dtype);
  }
  pass.lhs = has_u ? pass.u : pass.hidden;
  pass.probabilities = keeps_probabilities(problem) ? call.probabilities : nullptr;
  pass.expert_pitch = round_up(problem.experts, kernels.lanes);
  pass.router_columns = router_columns(problem);
  if (pass.router_columns > 0) pass.router_packed = workspace.take<float>(pass.router_columns * pass.expert_pitch);
  if (has_router(problem)) pass.pool_sums = workspace.take<float>(max_tile_count(problem) * problem.experts);
}

template <typename Products>
ForwardPlan plan_with(const Products &products, const lily_forward &call, const Kernels &kernels,
                      Workspace &workspace) {
  const lily_problem &problem = call.problem;
  ForwardPlan plan = {};
  ForwardPass &pass = plan.pass;

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, step_tokens(products), workspace);
  const bool gathers = call.tokens.rows != nullptr && !reads_listed_rows(products);
  take_rows(gathers, pass, workspace);

  RowPartials &partials = pass.hidden_partials;
  partials.rows = problem.tokens;
  partials.pitch = round_up(problem.rank, kernels.lanes);
  plan_shrink(products, kernels, pass, workspace);
  partials.data = workspace.take<float>(partials.count * partials.rows * partials.pitch);

  take_routing(pass, kernels, workspace);
  float *const workspace_weights = workspace.take<float>(problem.groups * problem.experts);
  pass.weights = call.weights != nullptr ? call.weights : workspace_weights;
  pass.stack = stack_of(problem, call.b, pass.weights);
  pass.expand = expand_tiles(products, kernels, pass);

  plan.scratch_floats = round_up(products.forward_scratch(pass), Workspace::kAlignment / sizeof(float));

  if (gathers) plan.steps.add(divide_up(problem.tokens, kGatherTile), kernels.gather_x);
  add_shrink(products, plan);
  if (pass.router_packed != nullptr) plan.steps.add(1, kernels.pack_router);
  plan.steps.add(pass.groups.tile_count(), kernels.route);
  if (has_weights(problem) && problem.routing != LILY_ROUTING_FIXED) plan.steps.add(1, pool_weights);
  plan.steps.add(pass.expand.columns.count * pass.expand.token_tiles, products.expand);
  return plan;
}

}  // namespace

ForwardPlan plan_call(const lily_forward &call, const Kernels &kernels, Workspace &workspace) {
  return with_products(kernels, call.problem,
                       [&](const auto &products) { return plan_with(products, call, kernels, workspace); });
}

ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels) {
  Workspace workspace(call.workspace);
  ForwardPlan plan = plan_call(call, kernels, workspace);
  take_scratch(plan, workspace);
  return plan;
}

}  // namespace lily::cpu
