// The tasks of the products in blocks. The sizes of the blocks are in blocked/blocking.h.
#include <algorithm>

#include "core/problem.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/products.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {

int64_t blocked::panel_steps_bytes(const Blocking &blocking, int64_t columns, int64_t depth) {
  return divide_up(columns, blocking.panel) * divide_up(depth, blocking.step_depth) * blocking.panel_bytes;
}

namespace {

using blocked::panel_steps_bytes;

// At least `count` pieces of whole panels, none wider than `widest`. If there are several, about as few as two threads
// share evenly.
Partition blocks(const Blocking &blocking, int64_t columns, int64_t widest, int64_t count) {
  const auto of_busier_thread = [](const Partition &pieces) { return divide_up(pieces.count, 2) * pieces.width; };
  count = std::max({count, divide_up(columns, widest), std::min<int64_t>(2, columns / 128)});
  Partition best = partition(columns, count, blocking.panel);
  for (int64_t more = count + 1; count > 1 && more <= 2 * count; ++more) {
    if (of_busier_thread(best) <= columns * 17 / 32) break;
    const Partition pieces = partition(columns, more, blocking.panel);
    if (of_busier_thread(pieces) < of_busier_thread(best)) best = pieces;
  }
  return best;
}

// The tiles of a product with `rank` columns: of columns where each thread has enough of them to do, so that it reads
// its own part of the packed operand only; of tokens otherwise.
RankProduct rank_tiles(const Blocking &blocking, int64_t tokens, int64_t rank) {
  const int64_t threads = thread_count(), many_columns = 128;
  RankProduct product = {};
  // Without exchanges only one tile of tokens lets each task pack its own columns, which then stay in its cache.
  const bool shares_columns = rank >= blocking.shared_ranks && (blocking.exchanges || rank >= many_columns * threads);
  const int64_t enough_columns = shares_columns ? many_columns : tokens <= blocking.few_tokens ? blocking.panel : rank;
  const int64_t by_columns = std::min(threads, divide_up(rank, enough_columns));
  product.rank_tiles = partition(rank, std::max(divide_up(rank, blocking.widest_ranks), by_columns), blocking.panel);
  const int64_t row_tasks = divide_up(threads, product.rank_tiles.count);
  product.tile_tokens = std::clamp(round_up(divide_up(tokens, row_tasks), blocking.block_rows), blocking.block_rows,
                                   blocking.most_tokens);
  product.token_tiles = std::max<int64_t>(1, divide_up(tokens, product.tile_tokens));
  const int64_t chunk_bytes = panel_steps_bytes(blocking, product.rank_tiles.width, blocking.chunk_depth);
  product.cached_depth = std::max<int64_t>(1, blocking.cached_bytes / chunk_bytes) * blocking.chunk_depth;
  return product;
}

// The columns of an outer product whose sums the L2 cache holds.
int64_t outer_columns(const Blocking &blocking, int64_t rank) {
  const int64_t columns = blocking.sum_bytes / 4 / round_up(rank, blocking.block_rows);
  return std::clamp(columns / blocking.panel * blocking.panel, blocking.panel, blocking.widest_outer);
}

int64_t packed_lhs_bytes(const Blocking &blocking, int64_t rows, int64_t steps) {
  return divide_up(rows, blocking.block_rows) * steps * blocking.block_bytes;
}

// A product of rows with a packed operand of `depth` x `rank`. With one tile of tokens each task packs its own columns,
// and the threads have equal shares of them; otherwise they are packed before the product, for all tasks.
RankProduct plan_rank_product(const Blocking &blocking, int64_t tokens, int64_t depth, int64_t rank,
                              Workspace &workspace) {
  RankProduct product = rank_tiles(blocking, tokens, rank);
  product.packs_own = !blocking.exchanges && product.token_tiles == 1;
  if (product.packs_own) {
    const int64_t count = product.rank_tiles.count > 1 ? round_up(product.rank_tiles.count, thread_count()) : 1;
    product.rank_tiles = partition(rank, count, blocking.rank_unit);
  } else {
    product.pack_tiles = partition(depth, divide_up(depth, blocking.chunk_depth), blocking.step_depth);
    product.packed = workspace.take<float>(panel_steps_bytes(blocking, rank, depth) / 4);
  }
  return product;
}

// The tiles of y or dx. Each tile of tokens packs its columns of C again; 32 E tokens amortise that.
RowTiles row_tiles(const Blocking &blocking, int64_t tokens, int64_t columns, int64_t rank, int64_t experts) {
  const int64_t threads = thread_count(), run = blocking.run_columns;
  const int64_t column_bytes = panel_steps_bytes(blocking, 1, rank) / blocking.panel;
  RowTiles tiles = {};
  tiles.slab = std::max(run, blocking.cached_bytes / column_bytes / run * run);
  const int64_t widest =
      std::max(blocking.panel, blocking.packed_bytes / column_bytes / blocking.panel * blocking.panel);
  const int64_t min_columns = columns <= tiles.slab ? 1 : blocks(blocking, columns, widest, 1).count;
  const int64_t max_token_tiles = std::max<int64_t>(1, tokens / (32 * experts));
  const int64_t token_tiles = std::min(divide_up(threads, min_columns), max_token_tiles);
  tiles.tile_tokens = std::max(blocking.block_rows, round_up(divide_up(tokens, token_tiles), blocking.block_rows));
  tiles.token_tiles = divide_up(tokens, tiles.tile_tokens);
  tiles.columns = partition(columns, std::max(min_columns, divide_up(threads, token_tiles)), blocking.panel);
  return tiles;
}

}  // namespace

void plan_shrink(const BlockedProducts &products, const Kernels &, ForwardPass &pass, Workspace &workspace) {
  const Blocking &blocking = *products.blocking;
  const lily_problem &problem = pass.call->problem;
  pass.hidden_partials.count = 1;
  pass.hidden_partials.rows = round_up(problem.tokens, blocking.block_rows);  // the last block writes all of its rows
  pass.shrink_exchanges = blocking.exchanges && problem.tokens <= blocking.few_tokens && problem.tokens < problem.rank;
  if (pass.shrink_exchanges) {
    // The tokens are the columns of one panel, so only the rows of A are left to share.
    pass.shrink.rank_tiles = partition(problem.rank, thread_count(), blocking.rank_unit);
    pass.shrink.tile_tokens = problem.tokens;
    pass.shrink.token_tiles = 1;
  } else {
    pass.shrink = plan_rank_product(blocking, problem.tokens, problem.d_in, problem.rank, workspace);
  }
}

RowTiles expand_tiles(const BlockedProducts &products, const Kernels &, const ForwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  return row_tiles(*products.blocking, problem.tokens, problem.d_out, pass.stack.rank, pass.stack.experts);
}

// The splits of d_out depend on d_out alone. A task takes as many of them as the sums of D allow: long runs of the rows
// of dy, B and dB. With a large rank it takes one, in several tiles.
void plan_dy_pass(const BlockedProducts &products, const Kernels &, BackwardPass &pass, Workspace &) {
  const Blocking &blocking = *products.blocking;
  const lily_problem &problem = pass.call->problem;
  DyPass &dy = pass.dy;
  const int64_t rank = pass.stack.rank, widest = outer_columns(blocking, rank);
  // A sequence has the same bits alone as in a batch, so the routing decides, not the number of groups.
  dy.computes_q = rank <= blocking.one_sweep_rank || may_have_groups(problem);
  // One split per 512 columns, as in splits_for_sum, unless there are no partial sums of q that the splits would
  // multiply.
  const bool narrow = blocking.many_tasks && !dy.computes_q;
  dy.splits = blocks(blocking, problem.d_out, narrow ? widest : 512, 1);
  dy.task_splits = std::clamp<int64_t>(divide_up(dy.splits.count, thread_count()), 1,
                                       std::max<int64_t>(1, widest / dy.splits.width));
  dy.tile_columns = std::min(widest, dy.task_splits * dy.splits.width);
  dy.tasks = divide_up(dy.splits.count, dy.task_splits);
  pass.groups.pieces =
      token_pieces(problem, rank, problem.d_out, divide_up(problem.d_out, widest), blocking.chunk_depth);
  pass.d_weights.count = dy.splits.count;
  pass.q_partials.count = dy.computes_q ? dy.splits.count : 1;
  pass.q_partials.rows = problem.tokens + blocking.block_rows;  // the last block of a group may write more rows
}

// The tiles of dA are as wide as its sums allow, but at least as many as threads.
void plan_x_pass(const BlockedProducts &products, const Kernels &, BackwardPass &pass, Workspace &workspace) {
  const Blocking &blocking = *products.blocking;
  const lily_problem &problem = pass.call->problem;
  // lhs^T, and later dh^T: tokens are the steps, and a group ends in a step of its own.
  const int64_t steps = divide_up(problem.tokens, blocking.step_depth) + problem.groups;
  pass.lhs_packed = workspace.take<float>(packed_lhs_bytes(blocking, pass.stack.rank, steps) / 4);
  if (!pass.dy.computes_q) {
    pass.q = plan_rank_product(blocking, problem.tokens, problem.d_out, pass.stack.rank, workspace);
  }
  pass.dx = row_tiles(blocking, problem.tokens, problem.d_in, problem.rank, 1);
  const int64_t widest = outer_columns(blocking, problem.rank);
  const int64_t least = std::min<int64_t>(thread_count(), divide_up(problem.d_in, 128));
  pass.x.tiles = blocks(blocking, problem.d_in, widest, least);
  pass.x.pieces =
      token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, widest), blocking.chunk_depth);
  pass.x.tasks = pass.x.tiles.count;
  // It determines the order of the sum over the tokens. Not measured: dR is a small part of backward.
  pass.router.outer_product_tokens = 24;
}

void add_shrink(const BlockedProducts &products, ForwardPlan &plan) {
  plan.steps.add(plan.pass.shrink.pack_tiles.count, products.pack_shrink);
  plan.steps.add(plan.pass.shrink.tile_count(), products.shrink);
}

void add_dy_pass(const BlockedProducts &products, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  if (pass.needs_d_combined) plan.steps.add(pass.groups.tile_count(), products.pack_lhs);
  if (pass.needs_d_hidden && !pass.dy.computes_q) {
    plan.steps.add(pass.q.pack_tiles.count, products.pack_c);
    plan.steps.add(pass.q.tile_count(), products.q_pass);
  }
  plan.steps.add(pass.dy.tasks, products.dy_pass);
}

void add_d_hidden(const BlockedProducts &products, const Kernels &kernels, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  const bool needs_da = pass.call->da.data != nullptr;
  // With one group the tiles of both passes are the same.
  const bool packs_at_once = needs_da && pass.groups.count == 1;
  plan.steps.add(pass.groups.tile_count(),
                 packs_at_once ? products.compute_and_pack_d_hidden : kernels.compute_d_hidden);
  if (pass.call->dx.data != nullptr) plan.steps.add(pass.dx.columns.count * pass.dx.token_tiles, products.dx_pass);
  if (needs_da && !packs_at_once) {
    plan.steps.add(divide_up(pass.call->problem.tokens, kTokenTile), products.pack_d_hidden);
  }
  if (needs_da) plan.steps.add(pass.x.tasks, products.da_pass);
  add_d_router(kernels, needs_da, plan);
}

}  // namespace lily::cpu
