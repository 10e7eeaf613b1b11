// The tasks of the products of the register tile.
#include <algorithm>

#include "core/problem.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/products.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {

// ---- Forward ----

namespace {

// Rows of x that stay in the caches while a task of shrink passes them.
constexpr int64_t kMostShrinkTokens = 512;

// Tokens per tile of shrink, in whole register tiles, for at least `count` tiles if `fewest` tokens per tile allow it.
int64_t shrink_tile(int64_t tokens, int64_t count, int64_t fewest, const Kernels &kernels) {
  int64_t tile = round_up(divide_up(tokens, count), kernels.tile_rows);
  if (divide_up(tokens, tile) < count) tile -= kernels.tile_rows;
  return std::clamp<int64_t>(tile, fewest, kMostShrinkTokens);
}

// From this rank on, tiles of the rank are tasks where they suffice for the threads.
constexpr int64_t kWideRank = 256;

// Tiles of the rank for at least `tasks` tasks of shrink with `token_tiles` tiles of tokens each. 0: these would be too
// narrow.
int64_t shrink_rank_tiles(int64_t rank, int64_t token_tiles, int64_t tasks) {
  constexpr int64_t kNarrowest = 96;
  const int64_t count = divide_up(tasks, token_tiles);
  return rank >= kWideRank && rank / count >= kNarrowest ? count : 0;
}

// The tiles of shrink, and the number of partial sums of h. Each tile of tokens packs A once. 252 tokens amortise that;
// with 60, forward in bfloat16 takes up to 8 % longer. With too few tiles for the threads, tiles of a large rank become
// tasks, which read x again from a cache; otherwise each split becomes a task of its own, at the cost of one more
// partial sum of h per split. Of many tokens these would not stay in the caches, so shorter tiles are preferred there.
void cut_shrink(ForwardPass &pass, int64_t tokens, const Kernels &kernels) {
  constexpr int64_t kFewestTokens = 60, kEnoughTokens = 252, kManyTokens = 4096;
  const int64_t rank = pass.call->problem.rank, fewest = tokens < kManyTokens ? kEnoughTokens : kFewestTokens;
  RankProduct &shrink = pass.shrink;
  pass.hidden_partials.count = 1;
  shrink.rank_tiles = partition(rank, 1, kernels.lanes);
  shrink.tile_tokens = shrink_tile(tokens, target_tasks(), fewest, kernels);
  if (divide_up(tokens, shrink.tile_tokens) >= target_tasks()) return;

  const int64_t token_tiles = divide_up(tokens, kMostShrinkTokens);
  int64_t rank_tiles = shrink_rank_tiles(rank, token_tiles, target_tasks());
  if (rank_tiles == 0) rank_tiles = shrink_rank_tiles(rank, token_tiles, thread_count());
  if (rank_tiles > 0) {
    shrink.rank_tiles = partition(rank, rank_tiles, kernels.lanes);
    shrink.tile_tokens = round_up(divide_up(tokens, token_tiles), kernels.tile_rows);
    return;
  }
  const int64_t splits = pass.shrink_splits.count;
  pass.hidden_partials.count = splits;
  shrink.tile_tokens = shrink_tile(tokens, divide_up(target_tasks(), splits), kFewestTokens, kernels);
}

// Up to kSmallRank, x is read in runs over as many splits as scratch holds. Above it, a run over one split leaves more
// of A in the caches, unless rows are copied.
int64_t packed_splits(const ForwardPass &pass, const Kernels &kernels) {
  const lily_problem &problem = pass.call->problem;
  if (pass.hidden_partials.count > 1 || pass.shrink.rank_tiles.count > 1) return 1;
  if (problem.rank > kSmallRank && problem.activation_dtype == kernels.dtype) return 1;
  return std::clamp<int64_t>(kScratchFloats * kernels.depth / (pass.shrink_splits.width * pass.hidden_partials.pitch),
                             1, pass.shrink_splits.count);
}

}  // namespace

void plan_shrink(const TileProducts &, const Kernels &kernels, ForwardPass &pass, Workspace &) {
  const int64_t tokens = std::max<int64_t>(pass.call->problem.tokens, 1);
  pass.shrink_splits = splits_for_sum(pass.call->problem.d_in, kernels.panel);
  cut_shrink(pass, tokens, kernels);
  pass.shrink.token_tiles = divide_up(tokens, pass.shrink.tile_tokens);
  pass.packed_splits = packed_splits(pass, kernels);
}

// Whole rows of y on one thread are the longest runs of memory, but each token tile combines C again: 128 E tokens
// amortise that. With fewer, tiles of columns are preferred, and a token tile has at least 32 E tokens.
RowTiles expand_tiles(const TileProducts &, const Kernels &kernels, const ForwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rank = pass.stack.rank, panel = kernels.panel;
  constexpr int64_t kEnoughColumns = 256;
  const int64_t min_column_tiles = tiles_for_scratch(problem.d_out, rank, panel, 1).count;
  const int64_t max_column_tiles = std::max(min_column_tiles, problem.d_out / kEnoughColumns);
  const auto token_tiles_of = [&](int64_t column_tiles, int64_t least_tokens) {
    return std::clamp<int64_t>(problem.tokens / (least_tokens * pass.stack.experts), 1,
                               divide_up(target_tasks(), column_tiles));
  };
  const int64_t token_tiles = std::max(token_tiles_of(min_column_tiles, 128), token_tiles_of(max_column_tiles, 32));
  RowTiles tiles = {};
  tiles.tile_tokens = round_up(std::max<int64_t>(1, divide_up(problem.tokens, token_tiles)), kernels.tile_rows);
  tiles.token_tiles = divide_up(problem.tokens, tiles.tile_tokens);
  tiles.columns =
      tiles_for_scratch(problem.d_out, rank, panel, divide_up(target_tasks(), std::max<int64_t>(1, tiles.token_tiles)));
  return tiles;
}

// ---- Backward ----

namespace {

// Cuts the tokens of each group into pieces.
void cut_groups(const TokenPieces &pieces, Groups &groups, Workspace &workspace) {
  groups.pieces = pieces;
  int32_t *const first_pieces = workspace.take<int32_t>(groups.count + 1);
  if (groups.offsets == nullptr || first_pieces == nullptr) return;
  first_pieces[0] = 0;
  for (int64_t group = 0; group < groups.count; ++group) {
    const int64_t count = pieces.count(groups.end(group) - groups.begin(group));
    first_pieces[group + 1] = first_pieces[group] + static_cast<int32_t>(count);
  }
  groups.first_pieces = first_pieces;
}

// Columns of a task whose sums over tokens are cut into pieces: whole cache lines, and rows of some length.
constexpr int64_t kNarrowestTile = 64;

// A tile of the rank reads dy again, if only from the cache; narrower ones are for many threads.
constexpr int64_t kRankTile = 64, kNarrowestRankTile = 32;

// Tokens per piece are multiples of this: whole tiles of six rows.
constexpr int64_t kPieceMultiple = 24;

// Tiles of the rank for which all columns of a split fit into scratch: q is then read and written once per split, and
// the rows of B and dB in long runs. They cut the sums of dw, so they depend on the sizes alone. Two threads share an
// even number of them evenly.
Partition d_weights_tiles(int64_t rank, int64_t split_columns) {
  const int64_t widest = std::max(kRankTile, kScratchFloats / split_columns / kRankTile * kRankTile);
  const int64_t fewest = std::max<int64_t>(divide_up(rank, widest), rank >= kWideRank ? 2 : 1);
  return partition(rank, fewest > 1 ? round_up(fewest, 2) : 1, kNarrowestRankTile);
}

// Each outer product reads and writes its sums once, which many steps amortise. With a wide rank these sums do not stay
// in the L2 cache.
int64_t outer_product_tokens(int64_t rank, int64_t depth) { return rank >= kWideRank && depth == 1 ? 264 : 96 * depth; }

// Whether the threads share the tiles of the rank evenly, and dy, which each of these tasks reads, stays in the L3
// cache.
bool shares_rank_tiles(const BackwardPass &pass) {
  constexpr int64_t kCachedBytes = 16 << 20;
  const lily_problem &problem = pass.call->problem;
  const int64_t tiles = pass.dy.rank_tiles.count;
  const int64_t dy_bytes = problem.tokens * problem.d_out * dtype_bytes(problem.activation_dtype);
  return tiles > 1 && tiles % thread_count() == 0 && dy_bytes <= kCachedBytes;
}

// With too few splits for the threads, the tasks also cut the tokens and the rank, and store their parts of D, unless
// these would be most of the traffic.
void store_d(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rank = pass.stack.rank, splits = pass.dy.splits.count;
  if (thread_count() == 1 || splits >= target_tasks() || problem.tokens < pass.groups.pieces.shortest) return;
  // The size of the workspace depends on the problem alone, so there is memory before the groups are looked at. Several
  // groups may have many more pieces than one has; then D is not stored.
  const int64_t affordable = problem.tokens / tokens_per_partial(problem, rank, problem.d_out);
  const int64_t stored = std::max(pass.groups.pieces.count(problem.tokens),
                                  std::min(affordable, problem.tokens / pass.groups.pieces.shortest + problem.groups));
  pass.dy.d_partial_floats = rank * round_up(problem.d_out, kernels.lanes);
  float *const partials = workspace.take<float>(stored * pass.dy.d_partial_floats);
  const int64_t pieces = pass.groups.piece_count();
  const int64_t rank_tiles = std::min(divide_up(target_tasks(), splits * pieces), divide_up(rank, kNarrowestRankTile));
  if (pieces > stored || pieces * rank_tiles == 1) return;
  const int64_t rank_tile = std::clamp(rank / rank_tiles / kNarrowestRankTile * kNarrowestRankTile, kNarrowestRankTile,
                                       pass.d_weights.rank_tiles.width);
  pass.dy.d_partials = partials;
  pass.dy.rank_tiles = partition(rank, divide_up(rank, rank_tile), kNarrowestRankTile);
  pass.dy.tasks = splits * pieces * pass.dy.rank_tiles.count;
  pass.dy.d_sum_tiles = partition(problem.d_out, target_tasks(), kNarrowestTile);
}

}  // namespace

void plan_dy_pass(const TileProducts &, const Kernels &kernels, BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rank = pass.stack.rank;
  pass.dy.splits = splits_for_sum(problem.d_out, kernels.panel);
  pass.d_weights.rank_tiles = pass.dy.rank_tiles = d_weights_tiles(rank, pass.dy.splits.width);
  pass.d_weights.count = divide_up(problem.d_out, kernels.panel) * pass.d_weights.rank_tiles.count;
  pass.outer_product_tokens = outer_product_tokens(rank, kernels.depth);
  const int64_t column_tasks = pass.dy.splits.count * divide_up(rank, kRankTile);
  cut_groups(token_pieces(problem, rank, problem.d_out, column_tasks, kPieceMultiple), pass.groups, workspace);

  // The tasks are the tiles of the rank, or the splits, at the cost of a partial sum of q for each. The pass tells them
  // by the number of these sums, which is also one where there is one split.
  const bool shares_rank = shares_rank_tiles(pass);
  pass.q_partials.count = shares_rank ? 1 : pass.dy.splits.count;
  pass.q_partials.rows = problem.tokens;
  pass.dy.tasks = pass.q_partials.count == 1 ? pass.dy.rank_tiles.count : pass.dy.splits.count;
  if (!shares_rank) store_d(pass, kernels, workspace);
}

// With too few tiles of columns for the threads, the tasks also cut the tokens, and store their parts of dA.
void plan_x_pass(const TileProducts &, const Kernels &kernels, BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  XPass &x = pass.x;
  pass.router.outer_product_tokens = pass.outer_product_tokens;
  x.pieces = token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, kNarrowestTile), kPieceMultiple);
  x.tiles = tiles_for_scratch(problem.d_in, problem.rank, kNarrowestTile, target_tasks());
  x.tasks = x.tiles.count;
  const int64_t pieces = x.pieces.count(problem.tokens);
  if (thread_count() == 1 || x.tiles.count >= target_tasks() || pieces == 1) return;
  x.da_partial_floats = problem.rank * round_up(problem.d_in, kernels.lanes);
  x.da_partials = workspace.take<float>(pieces * x.da_partial_floats);
  x.tasks = x.tiles.count * pieces;
}

// ---- Steps ----

void add_shrink(const TileProducts &products, ForwardPlan &plan) {
  plan.steps.add(plan.pass.hidden_partials.count * plan.pass.shrink.tile_count(), products.shrink);
}

void add_dy_pass(const TileProducts &products, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  plan.steps.add(pass.dy.tasks, products.dy_pass);
  if (pass.dy.d_partials != nullptr && pass.needs_d_combined) {
    plan.steps.add(pass.dy.d_sum_tiles.count, products.add_d_partials);
  }
}

void add_d_hidden(const TileProducts &products, const Kernels &kernels, BackwardPlan &plan) {
  const BackwardPass &pass = plan.pass;
  const bool needs_da = pass.call->da.data != nullptr, needs_x_pass = needs_da || pass.call->dx.data != nullptr;
  plan.steps.add(pass.groups.tile_count(), kernels.compute_d_hidden);
  if (needs_x_pass) plan.steps.add(pass.x.tasks, products.x_pass);
  add_d_router(kernels, needs_x_pass, plan);
  if (needs_da && pass.x.da_partials != nullptr) plan.steps.add(pass.x.tiles.count, products.add_da_partials);
}

}  // namespace lily::cpu
