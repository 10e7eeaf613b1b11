// The tasks of the products of batch routing with at most kDirectTokens tokens.
#include <algorithm>

#include "cpu/plan/cuts.h"
#include "cpu/plan/products.h"

namespace lily::cpu::direct {
namespace {

// The widest tile of columns: the sums of a token are then 4 KiB.
constexpr int64_t kDirectColumns = 1024;

Partition column_tiles(int64_t columns, int64_t panel) {
  return partition(columns, std::max(target_tasks(), divide_up(columns, kDirectColumns)), panel);
}

}  // namespace

void plan_shrink(ForwardPass &pass) {
  pass.hidden_partials.count = 1;
  pass.shrink.rank_tiles = partition(pass.call->problem.rank, target_tasks(), kDirectRows);
  pass.shrink.tile_tokens = pass.call->problem.tokens;
  pass.shrink.token_tiles = 1;
}

RowTiles expand_tiles(const lily_problem &problem, const Kernels &kernels) {
  return {column_tiles(problem.d_out, kernels.panel), problem.tokens, 1, 0};
}

void plan_dy_pass(BackwardPass &pass, const Kernels &kernels) {
  pass.dy.splits = splits_for_sum(pass.call->problem.d_out, kernels.panel);
  pass.dy.tasks = pass.q_partials.count = pass.d_weights.count = pass.dy.splits.count;
  pass.q_partials.rows = pass.call->problem.tokens;
}

XPass plan_x_pass(const lily_problem &problem, const Kernels &kernels) {
  XPass x = {};
  x.tiles = column_tiles(problem.d_in, kernels.panel);
  x.tasks = x.tiles.count;
  return x;
}

}  // namespace lily::cpu::direct
