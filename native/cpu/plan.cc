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
  // Without sequences there are no tokens. One empty group makes the passes run, which sets overwritten gradients to
  // zero.
  if (problem.groups == 0) {
    return {.offsets = nullptr,
            .count = 1,
            .tokens = 0,
            .first_tiles = nullptr,
            .first_steps = nullptr,
            .step_tokens = step_tokens,
            .pieces = {},
            .first_pieces = nullptr};
  }
  Groups groups = {.offsets = nullptr,
                   .count = problem.groups,
                   .tokens = problem.tokens,
                   .first_tiles = nullptr,
                   .first_steps = nullptr,
                   .step_tokens = step_tokens,
                   .pieces = {},
                   .first_pieces = nullptr};
  if (!may_have_groups(problem)) return groups;
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

void plan_shrink(ForwardPass &pass, const Kernels &kernels) {
  const lily_problem &problem = pass.call->problem;
  // Each tile of tokens packs A once. 252 tokens amortise that; with 60, forward in bfloat16 takes up to 8 % longer.
  // With too few tiles for the threads, tiles of a large rank become tasks, which read x again from a cache; otherwise
  // each split becomes a task of its own, at the cost of one more partial sum of h per split. Of many tokens these
  // would not stay in the caches, so shorter tiles are preferred there.
  constexpr int64_t kFewestTokens = 60, kEnoughTokens = 252, kManyTokens = 4096;
  const int64_t tokens = std::max<int64_t>(problem.tokens, 1);
  const int64_t fewest = tokens < kManyTokens ? kEnoughTokens : kFewestTokens;
  pass.shrink_splits = splits_for_sum(problem.d_in, kernels.panel);
  pass.shrink_tile_tokens = shrink_tile(tokens, target_tasks(), fewest, kernels);
  pass.hidden_partial_count = 1;
  int64_t rank_tiles = 1;
  if (divide_up(tokens, pass.shrink_tile_tokens) < target_tasks()) {
    const int64_t token_tiles = divide_up(tokens, kMostShrinkTokens);
    rank_tiles = shrink_rank_tiles(problem.rank, token_tiles, target_tasks());
    if (rank_tiles == 0) rank_tiles = shrink_rank_tiles(problem.rank, token_tiles, thread_count());
    if (rank_tiles > 0) {
      pass.shrink_tile_tokens = round_up(divide_up(tokens, token_tiles), kernels.tile_rows);
    } else {
      rank_tiles = 1;
      pass.hidden_partial_count = pass.shrink_splits.count;
      pass.shrink_tile_tokens =
          shrink_tile(tokens, divide_up(target_tasks(), pass.shrink_splits.count), kFewestTokens, kernels);
    }
  }
  pass.rank_tiles = partition(problem.rank, rank_tiles, kernels.lanes);
  pass.shrink_token_tiles = divide_up(tokens, pass.shrink_tile_tokens);
  // Up to kSmallRank, x is read in runs over as many splits as scratch holds. Above it, a run over one split leaves
  // more of A in the caches, unless rows are copied.
  const bool packs_one_split = pass.hidden_partial_count > 1 || pass.rank_tiles.count > 1 ||
                               (problem.rank > kSmallRank && problem.activation_dtype == kernels.dtype);
  pass.packed_splits =
      packs_one_split
          ? 1
          : std::clamp<int64_t>(kScratchFloats * kernels.depth / (pass.shrink_splits.width * pass.rank_pitch), 1,
                                pass.shrink_splits.count);
  pass.shrink_tasks = pass.hidden_partial_count * pass.rank_tiles.count * pass.shrink_token_tiles;
}

void plan_expand(ForwardPass &pass, const Kernels &kernels) {
  const lily_problem &problem = pass.call->problem;
  // Whole rows of y on one thread are the longest runs of memory, but each token tile combines C again: 128 E tokens
  // amortise that. With fewer, tiles of columns are preferred, and a token tile has at least 32 E tokens.
  constexpr int64_t kEnoughColumns = 256;
  const int64_t min_column_tiles = tiles_for_scratch(problem.d_out, pass.stack.rank, kernels.panel, 1).count;
  const int64_t max_column_tiles = std::max(min_column_tiles, problem.d_out / kEnoughColumns);
  const auto token_tiles_of = [&](int64_t column_tiles, int64_t least_tokens) {
    return std::clamp<int64_t>(problem.tokens / (least_tokens * pass.stack.experts), 1,
                               divide_up(target_tasks(), column_tiles));
  };
  const int64_t token_tiles = std::max(token_tiles_of(min_column_tiles, 128), token_tiles_of(max_column_tiles, 32));
  pass.expand_tile_tokens = round_up(std::max<int64_t>(1, divide_up(problem.tokens, token_tiles)), kernels.tile_rows);
  pass.expand_token_tiles = divide_up(problem.tokens, pass.expand_tile_tokens);
  pass.expand_column_tiles =
      tiles_for_scratch(problem.d_out, pass.stack.rank, kernels.panel,
                        divide_up(target_tasks(), std::max<int64_t>(1, pass.expand_token_tiles)));
}

// Columns of a task whose sums over tokens are cut into pieces: whole cache lines, and rows of some length.
constexpr int64_t kNarrowestTile = 64;

// A tile of the rank reads dy again, if only from the cache; narrower ones are for many threads.
constexpr int64_t kRankTile = 64, kNarrowestRankTile = 32;

// Tokens per piece are multiples of this: whole tiles of six rows.
constexpr int64_t kPieceMultiple = 24;

void plan_dy_pass(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  pass.dy_splits = splits_for_sum(problem.d_out, kernels.panel);  // one partial sum of q per split
  // Tiles of the rank for which all columns of a split fit into scratch: q is then read and written once per split, and
  // the rows of B and dB in long runs. They cut the sums of dw, so they depend on the sizes alone. Two threads share an
  // even number of them evenly.
  const int64_t rank = pass.stack.rank;
  const int64_t widest = std::max(kRankTile, kScratchFloats / pass.dy_splits.width / kRankTile * kRankTile);
  const int64_t fewest_tiles = std::max<int64_t>(divide_up(rank, widest), rank >= kWideRank ? 2 : 1);
  pass.d_weights_tiles = partition(rank, fewest_tiles > 1 ? round_up(fewest_tiles, 2) : 1, kNarrowestRankTile);
  pass.dy_rank_tiles = pass.d_weights_tiles;
  pass.dy_widest_rank_tile = std::min(rank, pass.dy_rank_tiles.width);
  // Each outer product reads and writes its sums once, which many steps amortise. With a wide rank these sums do not
  // stay in the L2 cache.
  pass.outer_product_tokens = rank >= kWideRank && kernels.depth == 1 ? 264 : 96 * kernels.depth;
  pass.q_rows = problem.tokens;
  pass.d_weights_count = divide_up(problem.d_out, kernels.panel) * pass.d_weights_tiles.count;
  // If the threads share the tiles of the rank evenly, these are the tasks, which read dy again, from the L3 cache;
  // otherwise the splits, at the cost of a partial sum of q for each.
  constexpr int64_t kCachedBytes = 16 << 20;
  const int64_t dy_bytes = problem.tokens * problem.d_out * dtype_bytes(problem.activation_dtype);
  const bool are_even =
      pass.dy_rank_tiles.count > 1 && pass.dy_rank_tiles.count % thread_count() == 0 && dy_bytes <= kCachedBytes;
  pass.q_partial_count = are_even ? 1 : pass.dy_splits.count;
  pass.dy_tasks = pass.q_partial_count == 1 ? pass.dy_rank_tiles.count : pass.dy_splits.count;

  const int64_t column_tasks = pass.dy_splits.count * divide_up(rank, kRankTile);
  cut_groups(token_pieces(problem, rank, problem.d_out, column_tasks, kPieceMultiple), pass.groups, workspace);
  if (are_even || thread_count() == 1 || pass.dy_splits.count >= target_tasks()) return;
  if (problem.tokens < pass.groups.pieces.shortest) return;
  // Several groups may have many more pieces than one has; then D is not stored.
  const int64_t affordable = problem.tokens / tokens_per_partial(problem, rank, problem.d_out);
  const int64_t stored = std::max(pass.groups.pieces.count(problem.tokens),
                                  std::min(affordable, problem.tokens / pass.groups.pieces.shortest + problem.groups));
  pass.d_partial_floats = rank * round_up(problem.d_out, kernels.lanes);
  float *const partials = workspace.take<float>(stored * pass.d_partial_floats);
  const int64_t pieces = pass.groups.piece_count();
  const int64_t rank_tiles =
      std::min(divide_up(target_tasks(), pass.dy_splits.count * pieces), divide_up(rank, kNarrowestRankTile));
  if (pieces > stored || pieces * rank_tiles == 1) return;
  pass.d_partials = partials;
  const int64_t rank_tile = std::clamp(rank / rank_tiles / kNarrowestRankTile * kNarrowestRankTile, kNarrowestRankTile,
                                       pass.dy_rank_tiles.width);
  pass.dy_rank_tiles = partition(rank, divide_up(rank, rank_tile), kNarrowestRankTile);
  pass.dy_tasks = pass.dy_splits.count * pieces * pass.dy_rank_tiles.count;
  pass.d_sum_tiles = partition(problem.d_out, target_tasks(), kNarrowestTile);
}

void plan_x_pass(BackwardPass &pass, const Kernels &kernels, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  pass.x_pieces =
      token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, kNarrowestTile), kPieceMultiple);
  pass.x_tiles = tiles_for_scratch(problem.d_in, problem.rank, kNarrowestTile, target_tasks());
  pass.x_tasks = pass.x_tiles.count;
  const int64_t pieces = pass.x_pieces.count(problem.tokens);
  if (thread_count() == 1 || pass.x_tiles.count >= target_tasks() || pieces == 1) return;
  pass.da_partial_floats = problem.rank * round_up(problem.d_in, kernels.lanes);
  pass.da_partials = workspace.take<float>(pieces * pass.da_partial_floats);
  pass.x_tasks = pass.x_tiles.count * pieces;
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

// The tiles of a product of rows with a packed operand of `depth` x `rank`: of columns where each thread has enough of
// them to do, so that it reads its own part of the operand only; of tokens otherwise.
struct ProductTiles {
  Partition ranks;
  int64_t tile_tokens, token_tiles;
  int64_t cached_depth;
};
ProductTiles product_tiles(const Blocking &blocking, int64_t tokens, int64_t rank) {
  const int64_t threads = thread_count(), many_columns = 128;
  ProductTiles tiles = {};
  // Without exchanges only one tile of tokens lets each task pack its own columns, which then stay in its cache.
  const bool shares_columns = rank >= blocking.shared_ranks && (blocking.exchanges || rank >= many_columns * threads);
  const int64_t enough_columns = shares_columns ? many_columns : tokens <= blocking.few_tokens ? blocking.panel : rank;
  const int64_t by_columns = std::min(threads, divide_up(rank, enough_columns));
  tiles.ranks = partition(rank, std::max(divide_up(rank, blocking.widest_ranks), by_columns), blocking.panel);
  const int64_t row_tasks = divide_up(threads, tiles.ranks.count);
  tiles.tile_tokens = std::clamp(round_up(divide_up(tokens, row_tasks), blocking.block_rows), blocking.block_rows,
                                 blocking.most_tokens);
  tiles.token_tiles = std::max<int64_t>(1, divide_up(tokens, tiles.tile_tokens));
  const int64_t chunk_bytes = panel_steps_bytes(blocking, tiles.ranks.width, blocking.chunk_depth);
  tiles.cached_depth = std::max<int64_t>(1, blocking.cached_bytes / chunk_bytes) * blocking.chunk_depth;
  return tiles;
}

// Whether there is one tile of tokens, so that each task of such a product packs its own columns. The threads then
// share the columns evenly.
bool packs_own(const Blocking &blocking, int64_t rank, ProductTiles &tiles) {
  if (blocking.exchanges || tiles.token_tiles > 1) return false;
  const int64_t count = tiles.ranks.count > 1 ? round_up(tiles.ranks.count, thread_count()) : 1;
  tiles.ranks = partition(rank, count, blocking.rank_unit);
  return true;
}

// The tiles of y or dx. Each tile of tokens packs its columns of C again; 32 E tokens amortise that.
struct RowTiles {
  Partition columns;
  int64_t tile_tokens, token_tiles;
  int64_t slab;
};
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
  pass.shrink_exchanges = blocking.exchanges && problem.tokens <= blocking.few_tokens && problem.tokens < problem.rank;
  pass.hidden_partial_count = 1;
  ProductTiles tiles = product_tiles(blocking, problem.tokens, problem.rank);
  pass.shrink_packs = packs_own(blocking, problem.rank, tiles);
  pass.rank_tiles = pass.shrink_exchanges ? partition(problem.rank, thread_count(), blocking.rank_unit) : tiles.ranks;
  pass.shrink_tile_tokens = tiles.tile_tokens;
  pass.shrink_token_tiles = tiles.token_tiles;
  pass.shrink_depth = tiles.cached_depth;
  pass.shrink_tasks = pass.rank_tiles.count * pass.shrink_token_tiles;
  if (pass.shrink_exchanges || pass.shrink_packs) return;
  pass.shrink_pieces = partition(problem.d_in, divide_up(problem.d_in, blocking.chunk_depth), blocking.step_depth);
  pass.shrink_packed = workspace.take<float>(panel_steps_bytes(blocking, problem.rank, problem.d_in) / 4);
}

void plan_blocked_expand(const Blocking &blocking, ForwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const RowTiles tiles = row_tiles(blocking, problem.tokens, problem.d_out, pass.stack.rank, pass.stack.experts);
  pass.expand_column_tiles = tiles.columns;
  pass.expand_tile_tokens = tiles.tile_tokens;
  pass.expand_token_tiles = tiles.token_tiles;
  pass.expand_slab = tiles.slab;
}

// The splits of d_out depend on d_out alone. A task takes as many of them as the sums of D allow: long runs of the rows
// of dy, B and dB. With a large rank it takes one, in several tiles.
void plan_blocked_dy_pass(const Blocking &blocking, BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rank = pass.stack.rank;
  const int64_t widest = outer_columns(blocking, rank);
  // A sequence has the same bits alone as in a batch, so the routing decides, not the number of groups.
  pass.reads_dy_once = rank <= blocking.one_sweep_rank || may_have_groups(problem);
  const bool narrow =
      blocking.many_tasks && !pass.reads_dy_once;  // no partial sums of q that the splits would multiply
  // Otherwise one split per 512 columns, as in splits_for_sum.
  pass.dy_splits = blocks(blocking, problem.d_out, narrow ? widest : 512, 1);
  pass.groups.pieces =
      token_pieces(problem, rank, problem.d_out, divide_up(problem.d_out, widest), blocking.chunk_depth);
  pass.dy_task_splits = std::clamp<int64_t>(divide_up(pass.dy_splits.count, thread_count()), 1,
                                            std::max<int64_t>(1, widest / pass.dy_splits.width));
  pass.dy_tile_columns = std::min(widest, pass.dy_task_splits * pass.dy_splits.width);
  pass.dy_tasks = divide_up(pass.dy_splits.count, pass.dy_task_splits);
  pass.d_weights_count = pass.dy_splits.count;
  pass.q_partial_count = pass.reads_dy_once ? pass.dy_splits.count : 1;
  // The last block of a group may write more rows.
  pass.q_rows = problem.tokens + blocking.block_rows;
  pass.outer_product_tokens = 24;  // of the gradient of the router
}

void plan_blocked_x_pass(const Blocking &blocking, BackwardPass &pass, Workspace &workspace) {
  const lily_problem &problem = pass.call->problem;
  // A group ends in a step of its own.
  const int64_t steps = divide_up(problem.tokens, blocking.step_depth) + problem.groups;
  pass.lhs_packed = workspace.take<float>(packed_lhs_bytes(blocking, pass.stack.rank, steps) / 4);
  if (!pass.reads_dy_once) {
    ProductTiles tiles = product_tiles(blocking, problem.tokens, pass.stack.rank);
    pass.q_packs = packs_own(blocking, pass.stack.rank, tiles);
    if (!pass.q_packs) {
      pass.c_pieces = partition(problem.d_out, divide_up(problem.d_out, blocking.chunk_depth), blocking.step_depth);
      pass.c_packed = workspace.take<float>(panel_steps_bytes(blocking, pass.stack.rank, problem.d_out) / 4);
    }
    pass.rank_tiles = tiles.ranks;
    pass.q_tile_tokens = tiles.tile_tokens;
    pass.q_token_tiles = tiles.token_tiles;
    pass.q_depth = tiles.cached_depth;
  }
  const RowTiles dx = row_tiles(blocking, problem.tokens, problem.d_in, problem.rank, 1);
  pass.dx_column_tiles = dx.columns;
  pass.dx_tile_tokens = dx.tile_tokens;
  pass.dx_token_tiles = dx.token_tiles;
  pass.dx_slab = dx.slab;
  const int64_t widest = outer_columns(blocking, problem.rank);
  pass.x_tiles =
      blocks(blocking, problem.d_in, widest, std::min<int64_t>(thread_count(), divide_up(problem.d_in, 128)));
  pass.x_pieces =
      token_pieces(problem, problem.rank, problem.d_in, divide_up(problem.d_in, widest), blocking.chunk_depth);
  pass.x_tasks = pass.x_tiles.count;
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

void plan_direct_forward(ForwardPass &pass, const Kernels &kernels) {
  const lily_problem &problem = pass.call->problem;
  pass.hidden_partial_count = 1;
  pass.rank_tiles = partition(problem.rank, target_tasks(), kDirectRows);
  pass.shrink_token_tiles = 1;
  pass.shrink_tasks = pass.rank_tiles.count;
  pass.expand_column_tiles = direct_columns(problem.d_out, kernels.panel);
  pass.expand_token_tiles = 1;
}

void plan_direct_backward(BackwardPass &pass, const Kernels &kernels) {
  const lily_problem &problem = pass.call->problem;
  pass.dy_splits = splits_for_sum(problem.d_out, kernels.panel);
  pass.dy_tasks = pass.q_partial_count = pass.d_weights_count = pass.dy_splits.count;
  pass.q_rows = problem.tokens;
  pass.outer_product_tokens = kDirectTokens;  // of the gradient of the router
  pass.x_tiles = direct_columns(problem.d_in, kernels.panel);
  pass.x_tasks = pass.x_tiles.count;
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

}  // namespace

ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  ForwardPlan plan = {};
  ForwardPass &pass = plan.pass;
  plan.products = &products_for(kernels, problem);
  const Blocking *const blocking = plan.products->blocking;
  const bool is_direct = plan.products == kernels.direct_products;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, blocking != nullptr ? blocking->step_depth : 1, workspace);
  pass.rank_pitch = round_up(problem.rank, kernels.lanes);
  int64_t partial_rows = problem.tokens;
  if (is_direct) {
    plan_direct_forward(pass, kernels);
  } else if (blocking != nullptr) {
    plan_blocked_shrink(*blocking, pass, workspace);
    partial_rows = round_up(problem.tokens, blocking->block_rows);
  } else {
    plan_shrink(pass, kernels);
  }
  pass.expert_pitch = round_up(problem.experts, kernels.lanes);
  pass.hidden_partials = workspace.take<float>(pass.hidden_partial_count * partial_rows * pass.rank_pitch);
  pass.hidden = take_matrix(workspace, problem.tokens, problem.rank, hidden_dtype(problem));
  if (call.hidden != nullptr) pass.hidden.data = call.hidden;
  pass.probabilities = keeps_probabilities(problem) ? call.probabilities : nullptr;
  if (token_routing) {
    pass.u = take_matrix(workspace, problem.tokens, problem.experts * problem.rank, kernels.dtype);
  }
  if (has_router(problem)) {
    pass.router_packed = workspace.take<float>(problem.rank * pass.expert_pitch);
    pass.pool_sums = workspace.take<float>(max_tile_count(problem) * problem.experts);
  }
  float *const workspace_weights = workspace.take<float>(problem.groups * problem.experts);
  plan.weights = call.weights != nullptr ? call.weights : workspace_weights;
  pass.stack = stack_of(problem, call.b, plan.weights);
  pass.lhs = token_routing ? pass.u : pass.hidden;
  if (blocking != nullptr) {
    plan_blocked_expand(*blocking, pass);
  } else if (!is_direct) {
    plan_expand(pass, kernels);
  }

  plan.scratch_floats = round_up(plan.products->forward_scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels) {
  const lily_problem &problem = call.problem;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  BackwardPlan plan = {};
  BackwardPass &pass = plan.pass;
  plan.products = &products_for(kernels, problem);
  const Blocking *const blocking = plan.products->blocking;
  const bool is_direct = plan.products == kernels.direct_products;
  Workspace workspace(call.workspace);

  pass.call = &call;
  pass.groups = groups_of(problem, call.tokens, blocking != nullptr ? blocking->step_depth : 1, workspace);
  pass.has_gradient = find_gradients(pass, workspace);
  pass.stack = stack_of(problem, call.b, call.weights);
  pass.needs_d_hidden = call.dx.data != nullptr || call.da.data != nullptr || call.d_router.data != nullptr;
  const bool has_deferred = call.deferred_db != nullptr && deferred_partials(problem) > 0;
  pass.needs_db = call.db.data != nullptr || has_deferred;
  pass.deferred_is_weighted = deferred_is_weighted(problem);
  pass.needs_d_weights = pass.needs_d_hidden && has_router(problem) && !token_routing;

  if (is_direct) {
    plan_direct_backward(pass, kernels);
  } else if (blocking != nullptr) {
    plan_blocked_dy_pass(*blocking, pass);
  } else {
    plan_dy_pass(pass, kernels, workspace);
  }
  pass.lhs_pitch = round_up(pass.stack.rank, kernels.lanes);
  pass.rank_pitch = round_up(problem.rank, kernels.lanes);
  pass.hidden = {const_cast<void *>(call.hidden), problem.rank, hidden_dtype(problem), 0};
  if (token_routing) pass.u = take_matrix(workspace, problem.tokens, pass.stack.rank, kernels.dtype);
  pass.lhs = token_routing ? pass.u : pass.hidden;
  pass.q_partials = workspace.take<float>(pass.q_partial_count * pass.q_rows * pass.lhs_pitch);
  pass.d_hidden = workspace.take<float>(problem.tokens * pass.rank_pitch);
  pass.d_hidden_lhs = {pass.d_hidden, pass.rank_pitch, LILY_FLOAT32, 0};
  if (kernels.dtype != LILY_FLOAT32) {
    const int64_t pitch =
        blocking != nullptr ? std::max(pass.rank_pitch, round_up(problem.rank, blocking->step_depth)) : pass.rank_pitch;
    pass.d_hidden_lhs = take_matrix(workspace, problem.tokens, pitch, kernels.dtype);
  }
  if (problem.parameter_dtype != LILY_FLOAT32 && pass.groups.count > 1) {
    const int64_t pitch = round_up(problem.d_out, kernels.lanes);
    pass.db_sums = take_matrix(workspace, problem.experts * problem.rank, pitch, LILY_FLOAT32);
    if (call.db.dtype == LILY_FLOAT32) pass.db_sums.data = nullptr;
  }
  if (has_router(problem)) {
    pass.d_weights_partials = workspace.take<double>(pass.d_weights_count * pass.groups.count * problem.experts);
    pass.d_pooled = workspace.take<float>(pass.groups.count * problem.experts);
    pass.router_packed = workspace.take<float>(problem.experts * pass.rank_pitch);
    pass.d_logits = workspace.take<float>(problem.tokens * problem.experts);
  }
  if (blocking != nullptr) {
    plan_blocked_x_pass(*blocking, pass, workspace);
  } else if (!is_direct) {
    plan_x_pass(pass, kernels, workspace);
  }
  pass.router_tiles = tiles_for_scratch(problem.rank, problem.experts, kernels.panel, 1);

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
