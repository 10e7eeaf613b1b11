#include "core/problem.h"
#include "cpu/plan/call.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/products.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// The largest number of token tiles for any offsets of the groups.
int64_t max_tile_count(const lily_problem &problem) { return divide_up(problem.tokens, kTokenTile) + problem.groups; }

// hidden and what follows from it: u, the probabilities and the sums of the pooled router.
void take_routing(ForwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_forward &call = *pass.call;
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  pass.hidden = take_matrix(workspace, problem.tokens, problem.rank, hidden_dtype(problem));
  if (call.hidden != nullptr) pass.hidden.data = call.hidden;
  if (token_routing) {
    pass.u = take_matrix(workspace, problem.tokens, problem.experts * problem.rank, kernels.dtype);
  }
  pass.lhs = token_routing ? pass.u : pass.hidden;
  pass.probabilities = keeps_probabilities(problem) ? call.probabilities : nullptr;
  pass.expert_pitch = round_up(problem.experts, kernels.lanes);
  if (!has_router(problem)) return;
  pass.router_packed = workspace.take<float>(problem.rank * pass.expert_pitch);
  pass.pool_sums = workspace.take<float>(max_tile_count(problem) * problem.experts);
}

}  // namespace

ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  ForwardPlan plan = {};
  ForwardPass &pass = plan.pass;
  plan.products = &products_for(kernels, problem);
  const Blocking *const blocking = plan.products->blocking;
  const bool is_direct = plan.products == kernels.direct_products;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, blocking != nullptr ? blocking->step_depth : 1, workspace);

  RowPartials &partials = pass.hidden_partials;
  partials.rows = problem.tokens;
  partials.pitch = round_up(problem.rank, kernels.lanes);
  if (is_direct) {
    direct::plan_shrink(pass);
  } else if (blocking != nullptr) {
    blocked::plan_shrink(*blocking, pass, workspace);
  } else {
    register_tile::plan_shrink(pass, kernels);
  }
  partials.data = workspace.take<float>(partials.count * partials.rows * partials.pitch);

  take_routing(pass, kernels, workspace);
  float *const workspace_weights = workspace.take<float>(problem.groups * problem.experts);
  plan.weights = call.weights != nullptr ? call.weights : workspace_weights;
  pass.stack = stack_of(problem, call.b, plan.weights);

  if (is_direct) {
    pass.expand = direct::expand_tiles(problem, kernels);
  } else if (blocking != nullptr) {
    pass.expand = blocked::row_tiles(*blocking, problem.tokens, problem.d_out, pass.stack.rank, pass.stack.experts);
  } else {
    pass.expand = register_tile::expand_tiles(pass, kernels);
  }

  plan.scratch_floats = round_up(plan.products->forward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

}  // namespace lily::cpu
