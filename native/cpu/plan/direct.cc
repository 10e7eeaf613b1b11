// The tasks of the products of batch routing with at most kDirectTokens tokens.
#include <algorithm>

#include "cpu/plan/cuts.h"
#include "cpu/plan/products.h"

namespace lily::cpu {
namespace {

// The widest tile of columns: the sums of a token are then 4 KiB.
constexpr int64_t kDirectColumns = 1024;

Partition column_tiles(int64_t columns, int64_t panel) {
  return partition(columns, std::max(target_tasks(), divide_up(columns, kDirectColumns)), panel);
}

}  // namespace

void plan_shrink(const DirectProducts &, const Kernels &, ForwardPass &pass, Workspace &) {
  pass.hidden_partials.count = 1;
  pass.shrink.rank_tiles = partition(pass.call->problem.rank, target_tasks(), kDirectRows);
  pass.shrink.tile_tokens = pass.call->problem.tokens;
  pass.shrink.token_tiles = 1;
}

RowTiles expand_tiles(const DirectProducts &, const Kernels &kernels, const ForwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  return {column_tiles(problem.d_out, kernels.panel), problem.tokens, 1, 0};
}

void plan_dy_pass(const DirectProducts &, const Kernels &kernels, BackwardPass &pass, Workspace &) {
  pass.dy.splits = splits_for_sum(pass.call->problem.d_out, kernels.panel);
  pass.dy.tasks = pass.q_partials.count = pass.d_weights.count = pass.dy.splits.count;
  pass.q_partials.rows = pass.call->problem.tokens;
}

void plan_x_pass(const DirectProducts &, const Kernels &kernels, BackwardPass &pass, Workspace &) {
  pass.x.tiles = column_tiles(pass.call->problem.d_in, kernels.panel);
  pass.x.tasks = pass.x.tiles.count;
  pass.router.outer_product_tokens = kDirectTokens;
}

void add_shrink(const DirectProducts &products, ForwardPlan &plan) {
  plan.steps.add(plan.pass.shrink.tile_count(), products.shrink);
}

void add_dy_pass(const DirectProducts &products, BackwardPlan &plan) {
  plan.steps.add(plan.pass.dy.tasks, products.dy_pass);
}

void add_d_hidden(const DirectProducts &products, const Kernels &kernels, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  const bool needs_x_pass = pass.call->dx.data != nullptr || pass.call->da.data != nullptr;
  plan.steps.add(pass.groups.tile_count(), kernels.compute_d_hidden);
  if (needs_x_pass) plan.steps.add(pass.x.tasks, products.x_pass);
  add_d_router(kernels, needs_x_pass, plan);
}

}  // namespace lily::cpu
