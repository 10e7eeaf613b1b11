#include "cpu/plan.h"

#include <algorithm>

#include "core/problem.h"
#include "cpu/processor.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// The weight of the single expert of LoRA and of token routing, and the weights of the single, empty group of a call
// without sequences.
constexpr float kOne = 1.0f;
const float kZeros[kMaxExperts] = {};

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
int64_t round_up(int64_t value, int64_t multiple) { return divide_up(value, multiple) * multiple; }

// Cuts columns into about `count` pieces of whole panels.
Partition partition(int64_t columns, int64_t count, int64_t panel) {
  const int64_t width = round_up(divide_up(columns, std::max<int64_t>(count, 1)), panel);
  return {columns, width, divide_up(columns, width)};
}

// The limit for a packed operand of rank x width floats: 512 KiB, half of a typical L2 cache of 1 MiB, which leaves
// room for activations.
constexpr int64_t kScratchFloats = 128 * 1024;

// Two tasks per thread: a thread that falls behind then delays the pass less.
int64_t target_tasks() { return 2 * static_cast<int64_t>(thread_count()); }

// Tasks that a large pass offers where the problem is large enough: two per thread of 64 threads.
constexpr int64_t kMostTasks = 128;

// Tokens per stored sum of `rows` x `columns` outer products from which on these partial sums, which are written and
// read once, cost at most 9 % of the bytes that backward moves anyway up to rank 32, and 20 % above.
int64_t tokens_per_partial(const lily_problem &problem, int64_t rows, int64_t columns) {
  const int64_t percent = problem.rank <= 32 ? 9 : 20, bytes = 2 * 4 * rows * columns;
  return divide_up(bytes * 100, percent * (problem.d_out + 2 * problem.d_in) * dtype_bytes(problem.activation_dtype));
}

// The pieces of a sum of `rows` x `columns` outer products over tokens, in a pass that has `column_tasks` tasks without
// pieces. Such a sum is the gradient of a parameter, or D_g of one group: the cut depends on the number of these
// tokens, never on the number of threads.
TokenPieces token_pieces(const lily_problem &problem, int64_t rows, int64_t columns, int64_t column_tasks,
                         int64_t multiple) {
  return {
      .most = divide_up(kMostTasks, column_tasks),
      .shortest = std::max<int64_t>(512, tokens_per_partial(problem, rows, columns)),
      .multiple = multiple,
  };
}

// At least `count` tiles, none of which is wider than the scratch limit allows.
Partition tiles_for_scratch(int64_t columns, int64_t rank, int64_t panel, int64_t count) {
  const int64_t widest = std::max(panel, kScratchFloats / rank / panel * panel);
  return partition(columns, std::max(divide_up(columns, widest), count), panel);
}

// Splits whose partial sums are added. They affect the rounding of the result, so they depend on the columns alone, not
// on M or the number of threads. The count is one per 512 columns; narrower matrices get one per 128 columns (two
// panels of AVX-512), up to four. A count above one is rounded up to an even number, which two threads share evenly.
Partition splits_for_sum(int64_t columns, int64_t panel) {
  const int64_t count = std::max(divide_up(columns, 512), std::min<int64_t>(4, columns / 128));
  return partition(columns, count <= 1 ? 1 : round_up(count, 2), panel);
}

// The largest number of token tiles for any offsets of the groups.
int64_t max_tile_count(const lily_problem &problem) { return divide_up(problem.tokens, kTokenTile) + problem.groups; }

// `step_tokens`: of a packed left operand.
Groups groups_of(const lily_problem &problem, const lily_tokens &tokens, int64_t step_tokens, Workspace &workspace) {
  Groups groups = {};
  // Without sequences there are no tokens. One empty group makes the passes run, which sets overwritten gradients to
  // zero.
  groups.count = std::max<int64_t>(problem.groups, 1);
  groups.tokens = problem.tokens;
  groups.step_tokens = step_tokens;
  if (problem.groups == 0 || !may_have_groups(problem)) return groups;
  int32_t *const first_tiles = workspace.take<int32_t>(problem.groups + 1);
  int32_t *const first_steps = workspace.take<int32_t>(problem.groups + 1);
  if (tokens.sequence_offsets == nullptr || first_tiles == nullptr) return groups;
  groups.offsets = tokens.sequence_offsets;
  groups.first_tiles = first_tiles;
  groups.first_steps = first_steps;
  first_tiles[0] = first_steps[0] = 0;
  for (int64_t group = 0; group < problem.groups; ++group) {
    const int64_t length = groups.end(group) - groups.begin(group);
    first_tiles[group + 1] = first_tiles[group] + static_cast<int32_t>(divide_up(length, kTokenTile));
    first_steps[group + 1] = first_steps[group] + static_cast<int32_t>(divide_up(length, step_tokens));
  }
  return groups;
}

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

ExpertStack stack_of(const lily_problem &problem, const lily_matrix &b, const float *weights) {
  ExpertStack stack = {
      .b = b,
      .experts = problem.experts,
      .rank = problem.rank,
      .transposed = false,
      .scaling = problem.scaling,
      .weights = problem.groups == 0 ? kZeros : weights,
  };
  if (problem.routing == LILY_ROUTING_TOKEN) {
    stack.experts = 1;
    stack.rank = problem.experts * problem.rank;
    stack.weights = &kOne;
  } else if (problem.routing == LILY_ROUTING_NONE) {
    stack.transposed = true;
    stack.weights = &kOne;
  }
  return stack;
}

// A rows x columns matrix in the workspace.
lily_matrix take_matrix(Workspace &workspace, int64_t rows, int64_t columns, int32_t dtype) {
  return {workspace.take<char>(rows * columns * dtype_bytes(dtype)), columns, dtype, 0};
}

// ---- The large products of the vector kernels ----

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

void plan_shrink(ForwardPass &pass, const Kernels &kernels) {
  const int64_t tokens = std::max<int64_t>(pass.call->problem.tokens, 1);
  pass.shrink_splits = splits_for_sum(pass.call->problem.d_in, kernels.panel);
  cut_shrink(pass, tokens, kernels);
  pass.shrink.token_tiles = divide_up(tokens, pass.shrink.tile_tokens);
  pass.packed_splits = packed_splits(pass, kernels);
}

// Whole rows of y on one thread are the longest runs of memory, but each token tile combines C again: 128 E tokens
// amortise that. With fewer, tiles of columns are preferred, and a token tile has at least 32 E tokens.
RowTiles expand_tiles(const ForwardPass &pass, const Kernels &kernels) {
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

void plan_dy_pass(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
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
XPass plan_x_pass(const lily_problem &problem, const Kernels &kernels, Workspace &workspace) {
  XPass x = {};
  x.pieces = token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, kNarrowestTile), kPieceMultiple);
  x.tiles = tiles_for_scratch(problem.d_in, problem.rank, kNarrowestTile, target_tasks());
  x.tasks = x.tiles.count;
  const int64_t pieces = x.pieces.count(problem.tokens);
  if (thread_count() == 1 || x.tiles.count >= target_tasks() || pieces == 1) return x;
  x.da_partial_floats = problem.rank * round_up(problem.d_in, kernels.lanes);
  x.da_partials = workspace.take<float>(pieces * x.da_partial_floats);
  x.tasks = x.tiles.count * pieces;
  return x;
}

// ---- The large products in blocks ----

int64_t panel_steps_bytes(const Blocking &blocking, int64_t columns, int64_t depth) {
  return divide_up(columns, blocking.panel) * divide_up(depth, blocking.step_depth) * blocking.panel_bytes;
}
int64_t packed_lhs_bytes(const Blocking &blocking, int64_t rows, int64_t steps) {
  return divide_up(rows, blocking.block_rows) * steps * blocking.block_bytes;
}

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

// A product of rows with a packed operand of `depth` x `rank`. With one tile of tokens each task packs its own columns,
// of which the threads then have equal shares; otherwise they are packed before the product, for all tasks.
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

// The columns of an outer product whose sums the L2 cache holds.
int64_t outer_columns(const Blocking &blocking, int64_t rank) {
  const int64_t columns = blocking.sum_bytes / 4 / round_up(rank, blocking.block_rows);
  return std::clamp(columns / blocking.panel * blocking.panel, blocking.panel, blocking.widest_outer);
}

void plan_blocked_shrink(const Blocking &blocking, ForwardPass &pass, Workspace &workspace) {
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

// The splits of d_out depend on d_out alone. A task takes as many of them as the sums of D allow: long runs of the rows
// of dy, B and dB. With a large rank it takes one, in several tiles.
void plan_blocked_dy_pass(const Blocking &blocking, BackwardPass &pass) {
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

// lhs^T, and later dh^T: tokens are the steps, and a group ends in a step of its own.
float *take_packed_lhs(const Blocking &blocking, const BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  const int64_t steps = divide_up(problem.tokens, blocking.step_depth) + problem.groups;
  return workspace.take<float>(packed_lhs_bytes(blocking, pass.stack.rank, steps) / 4);
}

// As wide as the sums of dA allow, but at least as many tiles as threads.
XPass plan_blocked_x_pass(const Blocking &blocking, const lily_problem &problem) {
  const int64_t widest = outer_columns(blocking, problem.rank);
  XPass x = {};
  x.tiles = blocks(blocking, problem.d_in, widest, std::min<int64_t>(thread_count(), divide_up(problem.d_in, 128)));
  x.pieces = token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, widest), blocking.chunk_depth);
  x.tasks = x.tiles.count;
  return x;
}

// ---- The frozen linear layer ----

// Chooses the tiles with which the thread that has the most to do has the least.
void plan_linear_tiles(const Blocking &blocking, LinearPass &pass) {
  const int64_t tokens = std::max<int64_t>(pass.call->problem.tokens, 1), threads = thread_count();
  // Packing a weight in the L2 cache takes about as long as multiplying this number of tokens.
  const int64_t packing_tokens = 16;
  const int64_t blocks = divide_up(tokens, blocking.block_rows);
  // In a larger L2 cache more columns, and with them fewer passes over the activations.
  const int64_t cached_bytes =
      blocking.cached_bytes * std::max<int64_t>(1, static_cast<int64_t>(l2_cache_bytes()) / blocking.l2_bytes);
  const int64_t widest = std::max<int64_t>(1, cached_bytes / panel_steps_bytes(blocking, 1, blocking.chunk_depth));
  const int64_t most_tiles = std::clamp<int64_t>(tokens / 64, 1, threads);
  int64_t least = INT64_MAX;
  for (int64_t token_tiles = 1; token_tiles <= most_tiles; ++token_tiles) {
    const int64_t tile_blocks = divide_up(blocks, token_tiles);
    const int64_t fewest_columns = divide_up(pass.panels, widest);
    for (int64_t columns = fewest_columns; columns <= std::min(pass.panels, fewest_columns + threads); ++columns) {
      const int64_t rounds = divide_up(columns * token_tiles, threads);
      const int64_t cost =
          rounds * divide_up(pass.panels, columns) * (tile_blocks * blocking.block_rows + packing_tokens);
      if (cost >= least) continue;
      least = cost;
      pass.column_tiles = columns;
      pass.tile_tokens = tile_blocks * blocking.block_rows;
    }
  }
  pass.token_tiles = divide_up(tokens, pass.tile_tokens);
  pass.widest_tile = divide_up(pass.panels, pass.column_tiles) * pass.panel;
}

// Tiles of at most this number of columns: the sums of eight tokens are then 16 KiB.
constexpr int64_t kDirectLinearColumns = 512;

void plan_direct_linear_tiles(LinearPass &pass) {
  const int64_t count = std::max(2 * target_tasks(), divide_up(pass.columns, kDirectLinearColumns));
  pass.column_tiles = std::min(pass.panels, count);
  pass.widest_tile = divide_up(pass.panels, pass.column_tiles) * pass.panel;
  pass.tile_tokens = pass.call->problem.tokens;
  pass.token_tiles = 1;
}

// ---- The direct products ----

// The widest tile of columns: the sums of a token are then 4 KiB.
constexpr int64_t kDirectColumns = 1024;

Partition direct_columns(int64_t columns, int64_t panel) {
  return partition(columns, std::max(target_tasks(), divide_up(columns, kDirectColumns)), panel);
}

void plan_direct_shrink(ForwardPass &pass) {
  pass.hidden_partials.count = 1;
  pass.shrink.rank_tiles = partition(pass.call->problem.rank, target_tasks(), kDirectRows);
  pass.shrink.tile_tokens = pass.call->problem.tokens;
  pass.shrink.token_tiles = 1;
}

void plan_direct_dy_pass(BackwardPass &pass, const Kernels &kernels) {
  pass.dy.splits = splits_for_sum(pass.call->problem.d_out, kernels.panel);
  pass.dy.tasks = pass.q_partials.count = pass.d_weights.count = pass.dy.splits.count;
  pass.q_partials.rows = pass.call->problem.tokens;
}

XPass plan_direct_x_pass(const lily_problem &problem, const Kernels &kernels) {
  XPass x = {};
  x.tiles = direct_columns(problem.d_in, kernels.panel);
  x.tasks = x.tiles.count;
  return x;
}

// ---- The choice of the products ----

// With few tokens B is most of the traffic. The direct products and those of the register tile read it less often than
// those in blocks. Bits differ, so only batch routing, whose results depend on the whole batch anyway, may choose by
// the number of tokens.
const LargeProducts &products_for(const Kernels &kernels, const lily_problem &problem) {
  constexpr int64_t kFewTokens = 16;
  const bool batch = problem.routing == LILY_ROUTING_BATCH;
  if (batch && problem.tokens > 0 && problem.tokens <= kDirectTokens) return *kernels.direct_products;
  const bool small = problem.rank <= kSmallRank || (batch && problem.tokens <= kFewTokens);
  return small || !multiplies_in_blocks() ? *kernels.small_rank_products : *kernels.large_rank_products;
}

// ---- The arrays of forward ----

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

// ---- The arrays of backward ----

// What the outputs of the call require.
void find_needs(BackwardPass &pass) {
  const lily_backward &call = *pass.call;
  const lily_problem &problem = call.problem;
  const bool has_deferred = call.deferred_db != nullptr && deferred_partials(problem) > 0;
  pass.needs_d_hidden = call.dx.data != nullptr || call.da.data != nullptr || call.d_router.data != nullptr;
  pass.needs_d_weights = pass.needs_d_hidden && has_router(problem) && problem.routing != LILY_ROUTING_TOKEN;
  pass.needs_db = call.db.data != nullptr || has_deferred;
  pass.needs_d_combined = pass.needs_db || pass.needs_d_weights;
  pass.deferred_is_weighted = deferred_is_weighted(problem);
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
void take_routing_gradients(BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  if (!has_router(problem)) return;
  const int64_t weights = pass.groups.count * problem.experts;
  pass.d_weights.partials = workspace.take<double>(pass.d_weights.count * weights);
  pass.d_pooled = workspace.take<float>(weights);
  pass.router_packed = workspace.take<float>(problem.experts * pass.rank_pitch);
  pass.d_logits = workspace.take<float>(problem.tokens * problem.experts);
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
    plan_direct_shrink(pass);
  } else if (blocking != nullptr) {
    plan_blocked_shrink(*blocking, pass, workspace);
  } else {
    plan_shrink(pass, kernels);
  }
  partials.data = workspace.take<float>(partials.count * partials.rows * partials.pitch);

  take_routing(pass, kernels, workspace);
  float *const workspace_weights = workspace.take<float>(problem.groups * problem.experts);
  plan.weights = call.weights != nullptr ? call.weights : workspace_weights;
  pass.stack = stack_of(problem, call.b, plan.weights);

  if (is_direct) {
    pass.expand = {direct_columns(problem.d_out, kernels.panel), problem.tokens, 1, 0};
  } else if (blocking != nullptr) {
    pass.expand = row_tiles(*blocking, problem.tokens, problem.d_out, pass.stack.rank, pass.stack.experts);
  } else {
    pass.expand = expand_tiles(pass, kernels);
  }

  plan.scratch_floats = round_up(plan.products->forward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  BackwardPlan plan = {};
  BackwardPass &pass = plan.pass;
  plan.products = &products_for(kernels, problem);
  const Blocking *const blocking = plan.products->blocking;
  const bool is_direct = plan.products == kernels.direct_products;
  const int64_t step_depth = blocking != nullptr ? blocking->step_depth : 1;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, step_depth, workspace);
  pass.has_gradient = find_gradients(pass, workspace);
  pass.stack = stack_of(problem, call.b, call.weights);
  find_needs(pass);

  if (is_direct) {
    plan_direct_dy_pass(pass, kernels);
  } else if (blocking != nullptr) {
    plan_blocked_dy_pass(*blocking, pass);
  } else {
    plan_dy_pass(pass, kernels, workspace);
  }
  take_lhs_and_q(pass, kernels, workspace);
  take_d_hidden(pass, kernels, step_depth, workspace);
  take_db_sums(pass, kernels, workspace);
  take_routing_gradients(pass, workspace);

  pass.router.tiles = tiles_for_scratch(problem.rank, problem.experts, kernels.panel, 1);
  if (is_direct) {
    pass.x = plan_direct_x_pass(problem, kernels);
    pass.router.outer_product_tokens = kDirectTokens;
  } else if (blocking != nullptr) {
    pass.lhs_packed = take_packed_lhs(*blocking, pass, workspace);
    if (!pass.dy.computes_q) {
      pass.q = plan_rank_product(*blocking, problem.tokens, problem.d_out, pass.stack.rank, workspace);
    }
    pass.dx = row_tiles(*blocking, problem.tokens, problem.d_in, problem.rank, 1);
    pass.x = plan_blocked_x_pass(*blocking, problem);
    // Not measured: dR is a small part of backward. The register tile had this number for sums of at most 64 rows, as
    // those of dR, until D and dA were measured with more. It determines the order of the sum over the tokens.
    pass.router.outer_product_tokens = 24;
  } else {
    pass.x = plan_x_pass(problem, kernels, workspace);
    pass.router.outer_product_tokens = pass.outer_product_tokens;
  }

  plan.scratch_floats = round_up(plan.products->backward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

LinearPlan plan_linear(const lily_linear &call, const Kernels &kernels) {
  const lily_linear_problem &problem = call.problem;
  LinearPlan plan = {};
  LinearPass &pass = plan.pass;
  plan.products = kernels.linear_products;
  const Blocking &blocking = *plan.products->blocking;
  pass.call = &call;
  pass.depth = problem.transposed != 0 ? problem.d_out : problem.d_in;
  pass.columns = problem.transposed != 0 ? problem.d_in : problem.d_out;
  pass.depth_pieces = {pass.depth, blocking.chunk_depth, divide_up(pass.depth, blocking.chunk_depth)};
  pass.panel = blocking.panel;
  pass.panels = divide_up(pass.columns, blocking.panel);
  // A packed weight of float32 numbers is twice as large as one of 16-bit numbers, and few tokens read it once.
  const bool few = plan.products->direct != nullptr && problem.tokens <= kDirectLinearTokens;
  const bool unpacked = few && kernels.dtype == LILY_FLOAT32 && problem.parameter_dtype != LILY_FLOAT32;
  plan.is_direct = few && (unpacked || call.packed == nullptr);
  if (plan.is_direct) {
    plan_direct_linear_tiles(pass);
  } else {
    plan_linear_tiles(blocking, pass);
  }
  // At most the size that no allocation has, as of a workspace.
  const uint64_t packed_bytes = static_cast<uint64_t>(panel_steps_bytes(blocking, pass.columns, pass.depth));
  plan.packed_bytes = unpacked ? 0 : static_cast<size_t>(std::min<uint64_t>(packed_bytes, SIZE_MAX));

  Workspace workspace(call.workspace);
  const auto scratch = plan.is_direct ? plan.products->direct_scratch : plan.products->scratch;
  plan.scratch_floats = round_up(scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Partition plan_fold(const lily_fold &call, const Kernels &kernels) {
  return partition(call.d_out, target_tasks(), kernels.panel);
}

}  // namespace lily::cpu
