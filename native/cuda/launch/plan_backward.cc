// The plan of backward. Symbols as in docs/math.md.
//
//   dy phase with dh | x phase | reduce         token routing, and weights that are given per sequence
//   dy phase | dh | x phase | reduce            sequences
//   C | dy phase with dh | x phase | reduce     one pooling group without a router
//   C and D | q and dh | x phase | reduce       one pooling group with a router
//   C | dy phase | dh | x phase | reduce        the same, if dy is too large to read it from L2 in the second launch
//   dy phase, once | dh | x phase | reduce      one pooling group and a small rank, if that is faster
//   C | D | dh | dx | dA | reduce               one pooling group with a router, and a large rank
//   C | dh | dx | D and dA | reduce             the same without a router; LoRA's b is the transpose of C
//
// If an operand has to be cast, one launch before all of these does it.
//
// The dy phase has the products that read dy, the x phase those that read dh. dh requires q, which requires C, and with
// a router dw, which requires D. Which of the last three: the fastest by cost.h.
#include <cmath>

#include "cuda/launch/choices.h"
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

// Deferred dB of weights per token: one D per group instead of one dB per expert.
bool is_one_hot(const lily_problem &problem, bool has_token_weights, bool defers_db) {
  return has_token_weights && defers_db && !deferred_is_weighted(problem);
}

// The token blocks of backward_dy know dw of their tokens, or it is not required, or D is computed before q.
bool completes_d_hidden(const lily_problem &problem, bool has_token_weights, bool d_first) {
  return !has_router(problem) || (has_token_weights ? problem.routing == LILY_ROUTING_TOKEN : d_first);
}

// Shared memory of the token blocks of backward_dy.
int token_bytes(const ShrinkRow &row, int experts, bool completes) {
  const int floats = d_hidden_scratch(row.tile.block_m, experts);
  return completes ? std::max(row.bytes, row.product_bytes + floats * static_cast<int>(sizeof(float))) : row.bytes;
}

struct DyChoice {
  Walk walk;
  const DyRow *row;  // null if dy is read once, or the rank is large
  bool d_first, once;
};

struct LargeGradients {
  Walk d, da;
};

struct BackwardChoice {
  Fastest<DyChoice> dy;
  Fastest<Walk> x;
  Fastest<ProductChoice> large_d_hidden, large_dx;
};

class BackwardChooser : Chooser {
 public:
  BackwardChooser(const lily_problem &problem, bool has_offsets, bool defers_db, const Device &device,
                  const Restriction *only)
      : Chooser(problem, has_offsets, device, only),
        d_in_(static_cast<int>(problem.d_in)),
        shrink_rows_(has_token_weights_ ? experts_ * rank_ : rank_),
        outer_rows_(is_one_hot(problem, has_token_weights_, defers_db) ? static_cast<int>(problem.groups) * rank_
                                                                       : shrink_rows_) {}

  // Without splits of the tokens, and with nothing that is learned for the weights, there is no launch of `reduce`.
  BackwardChoice choose() const {
    BackwardChoice choice = choose(true);
    if (routes_ || is_learned()) return choice;
    const BackwardChoice whole = choose(false);
    const auto seconds = [](const BackwardChoice &of) { return of.dy.seconds + of.x.seconds; };
    const double launch = cost_.seconds(0, {0, kThreads, 0}, {{1, 0, 0, 0, 0, 1, 4}});
    return seconds(choice) + launch < seconds(whole) ? choice : whole;
  }

 private:
  BackwardChoice choose(bool may_split) const {
    if (!has_token_weights_ && rank_ > kLargeRank) return choose_large(may_split);
    return {choose_dy(may_split), choose_x(may_split), {}, {}};
  }

  // ---- Bytes and times of steps ----

  // Bytes of a gradient of rows x columns with `copies`, or of the partial sums of one.
  double gradient_bytes(double rows, double columns, int splits, double copies) const {
    return rows * columns * (splits > 1 ? 4.0 * splits : 2 * copies * dtype_bytes(problem_.parameter_dtype));
  }

  // Bytes that one split writes.
  double written_bytes(double rows, double columns, int splits, double copies) const {
    return gradient_bytes(rows, columns, splits, copies) / splits;
  }

  // What `reduce` adds, without its launch.
  double reduce_seconds(double rows, double columns, int splits, double copies) const {
    if (splits == 1) return 0;
    return cost_.memory_seconds(rows * columns * (4.0 * splits + 2 * copies * dtype_bytes(problem_.parameter_dtype)));
  }
  double reduce_db_seconds(int splits) const {
    return reduce_seconds(outer_rows_, d_out_, splits, has_token_weights_ ? 1 : experts_);
  }
  double reduce_da_seconds(int splits) const { return reduce_seconds(rank_, d_in_, splits, 1); }

  double d_hidden_seconds(int q_partials) const {
    const double blocks = ceil_divide(tokens_, kHiddenTokens);
    const double rounds = std::ceil(q_partials / 4.0);
    return cost_.seconds(tokens_ * rank_ * (4.0 * q_partials + rows_.scalar_bytes),
                         {backward_hidden_bytes(experts_, has_token_weights_), kThreads, 0},
                         {{blocks, rounds, 0, 0, kThreads * 64, 1, 4}});
  }

  // ---- The products of dy ----

  // Selects how the dy phase reads dy:
  //
  //   once     in one launch, with partial sums of q and D
  //   d_first  one pooling group with a router: D and C in one launch, then q and dh in the next
  //   both     token blocks and column blocks in one launch; with a router, dh is another launch
  //
  // The second reading of dy comes from L2 as far as the dy of the splits in flight fits into it.
  Fastest<DyChoice> choose_dy(bool may_split) const {
    Fastest<DyChoice> fastest;
    const WalkShape shape = {outer_rows_, tokens_, d_out_, experts_};
    const bool completes = completes_d_hidden(problem_, has_token_weights_, false);
    const double combining = has_token_weights_ ? 0 : cost_.seconds(b_bytes(), {2048, kThreads, 0}, {combine_part()});
    const int fitting = fitting_size(rows_.dy, shrink_rows_, [](const DyRow &row) { return row.columns.tile.block_k; });
    for (const DyRow &row : rows_.dy) {
      if (row.columns.tile.block_k > fitting || excludes(only_.strip, row.columns.tile) ||
          excludes(only_.shrink, row.tokens.tile) ||
          token_bytes(row.tokens, experts_, true) > most_shared_bytes(device_))
        continue;
      const Tile &tile = row.columns.tile;
      const int blocks = ceil_divide(outer_rows_, tile.block_k) * ceil_divide(d_out_, tile.block_n);
      for_each_split(tokens_, tile.block_m, device_, blocks, [&](int split_tokens) {
        const Walk walk = strip_walk(row.columns, device_, shape, false, true, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        const double reduce = reduce_db_seconds(walk.splits);
        fastest.consider({walk, &row, false, false},
                         combining + dy_seconds(row, walk, completes) + (completes ? 0 : d_hidden_seconds(1)) + reduce);
        if (!routes_ || has_token_weights_) return;
        fastest.consider({walk, &row, true, false}, dy_columns_seconds(row, walk) + dy_tokens_seconds(row) + reduce);
      });
    }
    if (has_token_weights_) return fastest;
    for (const OnceRow &row : rows_.once)
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_out_, row.tile.block_n), [&](int split_tokens) {
        const Walk walk = once_walk(row, device_, shape, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        fastest.consider(
            {walk, nullptr, false, true},
            dy_once_seconds(row, walk) + d_hidden_seconds(walk.column_tiles) + reduce_db_seconds(walk.splits));
      });
    return fastest;
  }

  Part token_part(const ShrinkRow &row, double token_blocks, bool completes) const {
    const Tile &tile = row.tile;
    const double row_tiles = ceil_divide(shrink_rows_, tile.block_n), steps = ceil_divide(d_out_, tile.block_k);
    const double vectors = tile.block_m + std::min(tile.block_n, shrink_rows_);
    Part part =
        cost_.product(token_blocks * (has_token_weights_ ? 1 : row_tiles), steps * (has_token_weights_ ? row_tiles : 1),
                      tile.block_m, tile.block_n, tile.block_k, row.warps, vectors * tile.block_k);
    part.ahead = row.stages - 1;
    part.latencies = completes ? 3 : 1;
    return part;
  }

  Part column_part(const StripRow &row, const Walk &walk) const {
    const Tile &tile = row.tile;
    const double rows = std::min(tile.block_k, outer_rows_);
    Part part = cost_.product(walk.outer_blocks(), ceil_divide(walk.split_tokens, tile.block_m), tile.block_k,
                              tile.block_n, tile.block_m, row.outer_warps, (rows + tile.block_n) * tile.block_m);
    part.ahead = 2;
    if (has_token_weights_)  // u is formed while dy is loaded
      part.ahead = std::min(2.0, 1 / (2 * rounds(tile.block_m, tile.block_k, row.threads) * cost_.l2_latencies()));
    part.requested = written_bytes(rows, tile.block_n, walk.splits, has_token_weights_ ? 1 : experts_);
    return part;
  }

  Part combine_part() const {
    const double blocks = combine_grid(rank_, d_out_).blocks(), turns = std::ceil(experts_ / 4.0);
    return {blocks, turns, 0, 0, b_bytes() / blocks / turns};
  }

  double db_bytes(int splits) const {
    return gradient_bytes(outer_rows_, d_out_, splits, has_token_weights_ ? 1 : experts_);
  }

  double dy_seconds(const DyRow &row, const Walk &walk, bool completes) const {
    const int tile_tokens = row.tokens.tile.block_m;
    const double token_blocks = std::min<double>(walk.splits * double(ceil_divide(walk.split_tokens, tile_tokens)),
                                                 ceil_divide(tokens_, tile_tokens) + walk.splits - 1);
    const Part tokens = token_part(row.tokens, token_blocks, completes), columns = column_part(row.columns, walk);
    const Block block = {std::max(row.tokens.bytes, walk.shared_bytes), row.columns.threads,
                         std::max(row.tokens.accumulators, row.columns.outer_accumulators)};
    // The second reading of a split's dy finds in L2 what the first has loaded, as far as the splits in flight fit.
    const double of_split = (tokens.count + columns.count) / walk.splits, dy = activations(d_out_);
    const double in_flight =
        std::min<double>(walk.splits, 1 + cost_.resident(block) * device_.multiprocessors / of_split);
    const double reread = dy * cost_.missing_share(dy * in_flight / walk.splits);
    return cost_.seconds(dy + reread + db_bytes(walk.splits), block, {tokens, columns});
  }

  double dy_columns_seconds(const DyRow &row, const Walk &walk) const {
    return cost_.seconds(activations(d_out_) + db_bytes(walk.splits),
                         {walk.shared_bytes, row.columns.threads, row.columns.outer_accumulators},
                         {column_part(row.columns, walk), combine_part()});
  }

  // dy_columns has read dy before: the part that is still in L2 does not come from memory.
  double dy_tokens_seconds(const DyRow &row) const {
    const double dy = activations(d_out_);
    return cost_.seconds(dy * cost_.missing_share(dy), {row.tokens.bytes, row.tokens.threads, row.tokens.accumulators},
                         {token_part(row.tokens, ceil_divide(tokens_, row.tokens.tile.block_m), true)});
  }

  double dy_once_seconds(const OnceRow &row, const Walk &walk) const {
    const Tile &tile = row.tile;
    Part part = cost_.product(walk.outer_blocks(), ceil_divide(walk.split_tokens, tile.block_m), tile.block_k,
                              tile.block_n, tile.block_m, {1, kWarps}, (tile.block_k + tile.block_n) * tile.block_m);
    part.matrix *= 2;
    part.shared += (tile.block_m * 2.0 + tile.block_k) * tile.block_n * rows_.scalar_bytes;
    part.ahead = row.stages - 1;
    part.latencies = combining(tile.block_k, tile.block_n, kThreads);
    return cost_.seconds(activations(d_out_) + db_bytes(walk.splits) + 4.0 * walk.column_tiles * tokens_ * rank_,
                         {row.bytes, kThreads, tile.block_k / 16 * tile.block_n / 8}, {part});
  }

  // ---- The products of dh ----

  Fastest<Walk> choose_x(bool may_split) const {
    return choose_strip(rows_.x, d_in_, true, may_split, [&](const StripRow &row, const Walk &walk) {
      return x_seconds(row, walk) + reduce_da_seconds(walk.splits);
    });
  }

  double x_seconds(const StripRow &row, const Walk &walk) const {
    const Tile &tile = row.tile;
    const bool is_one = walk.row_tiles == 1;
    const double depth = std::min(tile.block_k, rank_), tiles = ceil_divide(walk.split_tokens, tile.block_m);
    Part expand = cost_.product(double(walk.column_tiles) * walk.splits, tiles * walk.row_tiles, tile.block_m,
                                tile.block_n, depth, row.expand_warps, (depth + 3.0 * tile.block_n) * tile.block_m);
    Part outer = cost_.product(walk.outer_blocks(), tiles, tile.block_k, tile.block_n, tile.block_m, row.outer_warps,
                               is_one ? 0 : (depth + tile.block_n) * tile.block_m);
    expand.ahead = outer.ahead = 2;
    expand.requested = depth * tile.block_n * rows_.scalar_bytes * (is_one ? 1 : tiles);
    outer.requested = written_bytes(depth, tile.block_n, walk.splits, 1);
    const double memory = activations(3.0 * d_in_) + gradient_bytes(rank_, d_in_, walk.splits, 1);
    const Block block = {walk.shared_bytes, row.threads, row.outer_accumulators + row.expand_accumulators};
    if (!is_one) return cost_.seconds(memory, block, {expand, outer});
    // Both products by the same blocks.
    expand.matrix += outer.matrix;
    expand.shared += outer.shared;
    expand.requested += outer.requested;
    return cost_.seconds(memory, block, {expand});
  }

  // ---- Large ranks ----

  BackwardChoice choose_large(bool may_split) const {
    Fastest<LargeGradients> d, da;
    for (const LargeRow &row : rows_.large) {
      if (excludes(only_.large, row.tile) || row.outer_bytes > most_shared_bytes(device_)) continue;
      // Without a router both are in one launch.
      consider_gradients(d, row, d_out_, routes_ ? 0 : d_in_, may_split);
      if (routes_) consider_gradients(da, row, 0, d_in_, may_split);
    }
    BackwardChoice choice = {};
    choice.dy = {{d.best.d, nullptr, false, false}, d.seconds, d.found};
    choice.x = {routes_ ? da.best.da : d.best.da, da.seconds, routes_ ? da.found : d.found};
    choice.large_dx = choose_output(rank_, d_in_, activations(rank_ + 2.0 * d_in_));
    choice.large_d_hidden = choose_hidden(d_out_, experts_);
    return choice;
  }

  // D of so many columns, and dA, in one launch, with the time of adding their partial sums; 0 columns: not in it.
  void consider_gradients(Fastest<LargeGradients> &fastest, const LargeRow &row, int d_columns, int da_columns,
                          bool may_split) const {
    const Block block = {row.outer_bytes, row.threads(), row.accumulators};
    const int column_tiles = ceil_divide(d_columns, row.tile.block_n) + ceil_divide(da_columns, row.tile.block_n);
    for_each_share(rank_, row.tile.block_m, row_unit(row), [&](int tile_rows) {
      const int blocks = ceil_divide(rank_, tile_rows) * column_tiles;
      for_each_split(tokens_, kLeastLargeDepth, device_, blocks, [&](int split_tokens) {
        const Walk d = large_walk(row, device_, {rank_, tokens_, d_columns, experts_}, tile_rows, split_tokens);
        const Walk da = large_walk(row, device_, {rank_, tokens_, da_columns, experts_}, tile_rows, split_tokens);
        if (d.column_tiles + da.column_tiles != column_tiles || (d.splits > 1 && !may_split)) return;
        const double memory = activations(double(d_columns) + da_columns) +
                              gradient_bytes(rank_, d_columns, d.splits, experts_) +
                              gradient_bytes(rank_, da_columns, da.splits, 1);
        fastest.consider(
            {d, da}, cost_.seconds(memory, block, {large_outer_part(row, d, experts_), large_outer_part(row, da, 1)}) +
                         reduce_seconds(rank_, d_columns, d.splits, experts_) +
                         reduce_seconds(rank_, da_columns, da.splits, 1));
      });
    });
  }

  Part large_outer_part(const LargeRow &row, const Walk &walk, int copies) const {
    const Tile &tile = row.tile;
    Part part = cost_.product(walk.outer_blocks(), ceil_divide(walk.split_tokens, tile.block_k), walk.tile_rows,
                              tile.block_n, row, (walk.tile_rows + tile.block_n) * tile.block_k);
    const double written = walk.splits > 1 ? 1 : copies;
    part.latencies = 1 + written * std::ceil(tile.block_m * tile.block_n / 32.0 / row.threads());
    part.requested = written_bytes(walk.tile_rows, tile.block_n, walk.splits, copies);
    return part;
  }

  // Least tokens of a split of a large rank: writing and adding partial sums costs as much as a few hundred tokens.
  static constexpr int kLeastLargeDepth = 256;

  const int d_in_;
  const int shrink_rows_, outer_rows_;  // rows of C or B; rows of D or dB
};

class BackwardPlanner : Planner {
 public:
  BackwardPlanner(const lily_problem &problem, const BackwardOperands &operands, const Device &device,
                  const BackwardChoice &choice)
      : Planner(problem, operands.has_offsets, device),
        operands_(operands),
        choice_(choice),
        d_in_(static_cast<int>(problem.d_in)) {}

  BackwardPlan plan() {
    plan_.engine = engine_;
    plan_.is_supported = true;
    plan_.has_token_weights = has_token_weights_;
    plan_.is_large = !plan_.has_token_weights && rank_ > kLargeRank;
    plan_.one_hot = is_one_hot(problem_, has_token_weights_, operands_.defers_db);
    find_needs();
    use_choice();
    plan_casts();
    lay_out();
    if (tokens_ > 0 && plan_.is_large) {
      add_large_launches();
    } else if (tokens_ > 0) {
      if (plan_.reads_dy_once)
        add_dy_once();
      else
        add_dy();
      add_x();
    }
    add_reduce();
    return plan_;
  }

 private:
  void find_needs() {
    plan_.needs_db = operands_.has_db || operands_.defers_db;
    plan_.needs_d_router = routes_ && operands_.has_d_router;
    plan_.needs_q = operands_.has_dx || operands_.has_da;
    if (is_learned()) plan_.mixture_blocks = operands_.has_d_router;
    if (operands_.has_d_weights) plan_.mixture_blocks = static_cast<int>(problem_.groups);
    plan_.needs_d_weights = plan_.mixture_blocks > 0 || (routes_ && (plan_.needs_q || plan_.needs_d_router));
    plan_.counts_kept = routes_ && !plan_.has_token_weights && operands_.has_mask;
    plan_.combines = !plan_.has_token_weights && !(plan_.is_large && is_lora()) &&
                     (plan_.needs_q || (plan_.needs_d_weights && plan_.counts_kept));
  }

  void plan_casts() {
    const bool reads_b = plan_.needs_q || plan_.needs_d_weights;
    const int32_t activation = problem_.activation_dtype;
    plan_.dy_cast = cast_activation(d_out_, activation, operands_.dy, plan_.needs_db || reads_b);
    plan_.x_cast = cast_activation(d_in_, activation, operands_.x, operands_.has_da);
    plan_.a_cast = cast_parameter(rank_, d_in_, operands_.a, operands_.has_dx);
    if (has_token_weights_) plan_.b_cast = cast_parameter(int64_t{experts_} * rank_, d_out_, operands_.b, reads_b);
    // u is formed element by element, from rows of h with any alignment.
    const int32_t hidden = hidden_dtype(problem_);
    if (!has_token_weights_ || hidden != scalar_dtype(engine_))
      plan_.hidden_cast = cast_activation(rank_, hidden, operands_.hidden, needs_outer_of_dy());
    if (plan_.is_large && is_lora()) plan_.b_cast = cast_parameter(d_out_, rank_, operands_.b, reads_b);
    plan_.combine_grid = plan_.combines ? combine_blocks() : Grid{};
    plan_.cast_combines = plan_.combines && !plan_.d_first && !plan_.reads_dy_once;
    if (tokens_ > 0)
      add_casts(plan_.launches, {plan_.dy_cast, plan_.x_cast, plan_.hidden_cast, plan_.a_cast, plan_.b_cast},
                plan_.cast_combines ? plan_.combine_grid.blocks() : 0);
  }

  void use_choice() {
    plan_.shrink_rows = has_token_weights_ ? experts_ * rank_ : rank_;
    plan_.outer_rows = plan_.one_hot ? static_cast<int>(problem_.groups) * rank_ : plan_.shrink_rows;
    plan_.router_split_tokens =
        std::clamp(round_up(ceil_divide(tokens_, kRouterSplits), kRouterTile), kLeastRouterTokens, kMostRouterTokens);
    plan_.router_splits = ceil_divide(tokens_, plan_.router_split_tokens);
    plan_.router_element_tiles = ceil_divide(experts_ * rank_, kRouterElements);
    // At most two blocks per multiprocessor, because each adds the partial sums of dw, or dw of its groups.
    plan_.hidden_tokens =
        kHiddenTokens * std::max(1, ceil_divide(ceil_divide(tokens_, kHiddenTokens), 2 * device_.multiprocessors));
    plan_.is_supported = choice_.dy.found && choice_.x.found &&
                         (!plan_.is_large || (choice_.large_d_hidden.found && choice_.large_dx.found));
    if (!plan_.is_supported) return;
    plan_.dy = choice_.dy.best.walk.over(tokens_);
    plan_.x = choice_.x.best.over(tokens_);
    plan_.d_first = choice_.dy.best.d_first;
    plan_.reads_dy_once = choice_.dy.best.once;
    plan_.tile_tokens = choice_.dy.best.row != nullptr ? choice_.dy.best.row->tokens.tile.block_m : 0;
    plan_.completes_d_hidden =
        !plan_.is_large && !plan_.reads_dy_once && completes_d_hidden(problem_, has_token_weights_, plan_.d_first);
    plan_.d_weights_partials = plan_.dy.outer_blocks();
  }

  // Elements of one partial sum of a gradient, with rows padded to whole float4.
  static int64_t partial_size(int rows, int columns) { return int64_t{rows} * round_up(columns, 4); }

  void lay_out() {
    BackwardPlan &to = plan_;
    to.q_pitch = round_up(rank_, 4);
    to.c_pitch = round_up(d_out_, vector_elements(rows_));
    to.d_hidden_pitch = round_up(rank_, vector_elements(rows_));
    to.db_partial = is_lora() ? partial_size(d_out_, rank_) : partial_size(to.outer_rows, d_out_);
    to.da_partial = partial_size(rank_, d_in_);
    to.router_partial = round_up(experts_ * rank_, 4);
    to.q = to.q_partials = to.c = to.d_hidden = to.d_logits = to.token_d_weights = to.d_weights = kAbsent;
    to.kept = to.db_partials = to.da_partials = to.router_partials = kAbsent;
    Workspace workspace(nullptr);
    to.d_hidden = take(workspace, problem_.tokens * to.d_hidden_pitch, rows_.scalar_bytes);
    if (to.has_token_weights || !(to.is_large || to.reads_dy_once || to.completes_d_hidden))
      to.q = take(workspace, problem_.tokens * to.q_pitch);
    if (routes_) to.d_logits = take(workspace, problem_.tokens * experts_);
    if (to.reads_dy_once) to.q_partials = take(workspace, to.dy.column_tiles * problem_.tokens * to.q_pitch);
    if (!to.has_token_weights && !to.reads_dy_once && !(to.is_large && is_lora()))
      to.c = take(workspace, int64_t{rank_} * to.c_pitch, rows_.scalar_bytes);
    if (may_need_d_weights()) {
      if (to.has_token_weights)
        to.token_d_weights = take(workspace, problem_.tokens * experts_);
      else
        to.d_weights = take(workspace, int64_t{to.d_weights_partials} * experts_);
    }
    if (routes_ && !to.has_token_weights) to.kept = take(workspace, 1);
    if (to.dy.splits > 1) to.db_partials = take(workspace, to.dy.splits * to.db_partial);
    if (to.x.splits > 1) to.da_partials = take(workspace, to.x.splits * to.da_partial);
    if (routes_) to.router_partials = take(workspace, to.router_splits * to.router_partial);
    lay_out_casts(workspace, rows_.scalar_bytes, {&to.dy_cast, &to.x_cast, &to.hidden_cast, &to.a_cast, &to.b_cast});
    to.workspace_bytes = workspace.bytes();
  }

  bool may_need_d_weights() const { return routes_ || is_learned() || problem_.routing == LILY_ROUTING_FIXED; }

  Grid combine_blocks() const { return plan_.needs_q ? combine_grid(rank_, d_out_) : Grid{1, 1, 1}; }

  // Blocks that hold a tile of D are required for dB and for dw.
  bool needs_outer_of_dy() const { return plan_.needs_db || (plan_.needs_d_weights && !plan_.has_token_weights); }

  void add_dy() {
    if (!plan_.is_supported) return;
    const Walk &dy = plan_.dy;
    const ShrinkRow &row = choice_.dy.best.row->tokens;
    const int bytes = token_bytes(row, experts_, plan_.completes_d_hidden);
    const auto add_launch = [&](Step step, int64_t blocks, int shared_bytes) {
      if (blocks > 0)
        add(plan_.launches, step, row.tile, dy.tile, {static_cast<int>(blocks), 1, 1}, shared_bytes, row.threads);
    };
    const bool needs_tokens = plan_.needs_q || (has_token_weights_ && plan_.needs_d_weights);
    const int split_tokens = plan_.d_first ? tokens_ : dy.split_tokens;
    if (needs_tokens) plan_.token_tiles = ceil_divide(split_tokens, plan_.tile_tokens);
    plan_.q_row_tiles = has_token_weights_ ? 1 : ceil_divide(rank_, dy.tile.block_k);
    plan_.dy_row_tiles = needs_outer_of_dy() ? dy.row_tiles : 0;
    const int token_blocks = plan_.token_tiles * plan_.q_row_tiles;
    const int column_blocks = dy.column_tiles * plan_.dy_row_tiles;
    if (plan_.d_first) {
      add_launch(Step::kDyColumns, column_blocks * dy.splits + plan_.combine_grid.blocks(), dy.shared_bytes);
      add_launch(Step::kDyTokens, token_blocks, bytes);
    } else {
      add_launch(Step::kDy, int64_t{token_blocks + column_blocks} * dy.splits, std::max(bytes, dy.shared_bytes));
    }
    if (!(needs_tokens && plan_.completes_d_hidden)) add_d_hidden();
  }

  // dh from q or its partial sums; if only dR is required, only dl.
  void add_d_hidden() {
    if (!plan_.needs_q && !plan_.needs_d_router) return;
    add(plan_.launches, Step::kDHidden, {}, {}, {ceil_divide(tokens_, plan_.hidden_tokens), 1, 1},
        backward_hidden_bytes(experts_, has_token_weights_));
  }

  void add_dy_once() {
    const Walk &dy = plan_.dy;
    add(plan_.launches, Step::kDyOnce, dy.tile, {}, {dy.outer_blocks(), 1, 1}, dy.shared_bytes);
    add_d_hidden();
  }

  int router_blocks() const { return plan_.needs_d_router ? plan_.router_splits * plan_.router_element_tiles : 0; }

  void add_x() {
    plan_.is_supported = plan_.is_supported && plan_.x.column_tiles != 0;
    if (!plan_.is_supported) return;
    const Walk &x = plan_.x;
    const int strips = x.column_tiles * x.splits;
    if (x.row_tiles == 1) {
      plan_.expand_blocks = plan_.needs_q ? strips : 0;
    } else {
      plan_.expand_blocks = operands_.has_dx ? strips : 0;
      plan_.outer_blocks = operands_.has_da ? x.outer_blocks() : 0;
    }
    const int grid = plan_.expand_blocks + plan_.outer_blocks + router_blocks();
    if (grid > 0)
      add(plan_.launches, Step::kX, x.tile, {}, {grid, 1, 1}, bytes_with_router(x.shared_bytes, experts_),
          row_of(rows_.x, x.tile).threads);
  }

  void add_large_launches() {
    if (!plan_.is_supported) return;
    plan_.dy_row_tiles = needs_outer_of_dy() ? plan_.dy.row_tiles : 0;
    const int dy_blocks = needs_outer_of_dy() ? plan_.dy.outer_blocks() : 0;
    if (routes_ && dy_blocks > 0)
      add(plan_.launches, Step::kLargeD, plan_.dy.tile, {}, {dy_blocks, 1, 1}, plan_.dy.shared_bytes,
          row_of(rows_.large, plan_.dy.tile).threads());
    if (plan_.needs_q) {
      const ProductChoice &d_hidden = choice_.large_d_hidden.best;
      plan_.large_d_hidden = d_hidden.plan;
      add_product(plan_.launches, Step::kLargeDHidden, d_hidden, rank_, d_hidden.row->hidden_bytes(experts_));
    } else {
      add_d_hidden();
    }
    if (operands_.has_dx) {
      const ProductChoice &dx = choice_.large_dx.best;
      plan_.large_dx = dx.plan;
      add_product(plan_.launches, Step::kLargeDx, dx, d_in_, dx.row->output_bytes);
    }
    plan_.outer_blocks = operands_.has_da ? plan_.x.outer_blocks() : 0;
    if (const int blocks = plan_.outer_blocks + (routes_ ? router_blocks() : dy_blocks); blocks > 0)
      add(plan_.launches, Step::kLargeDa, plan_.x.tile, {}, {blocks, 1, 1},
          bytes_with_router(plan_.x.shared_bytes, experts_), row_of(rows_.large, plan_.x.tile).threads());
  }

  // Adds partial sums, also of dw of weights without a router; without tokens it writes zeros.
  void add_reduce() {
    const bool empty = tokens_ == 0;
    plan_.reduces_db = plan_.needs_db && (plan_.dy.splits > 1 || empty);
    plan_.reduces_da = operands_.has_da && (plan_.x.splits > 1 || empty);
    int blocks = 0;
    if (plan_.reduces_db) blocks += is_lora() ? reduce_blocks(d_out_, rank_) : reduce_blocks(plan_.outer_rows, d_out_);
    if (plan_.reduces_da) blocks += reduce_blocks(rank_, d_in_);
    if (plan_.needs_d_router) blocks += reduce_blocks(experts_, rank_);
    blocks += plan_.mixture_blocks;
    if (blocks > 0) add(plan_.launches, Step::kReduce, {}, {}, {blocks, 1, 1}, 0);
  }

  const BackwardOperands &operands_;
  const BackwardChoice &choice_;
  const int d_in_;
  BackwardPlan plan_ = {};
};

}  // namespace

BackwardPlan plan_backward(const lily_problem &problem, const BackwardOperands &operands, const Device &device,
                           const Restriction *only) {
  const auto choose = [&](const lily_problem &at) {
    return BackwardChooser(at, operands.has_offsets, operands.defers_db, device, only).choose();
  };
  if (only != nullptr) return BackwardPlanner(problem, operands, device, choose(bucketed(problem))).plan();
  thread_local Choices<BackwardChoice> choices;
  const int flags = operands.has_offsets + 2 * operands.defers_db;
  return BackwardPlanner(problem, operands, device, choices.find(problem, flags, device, choose)).plan();
}

size_t backward_workspace_bytes(const lily_problem &problem, const Device &device) {
  size_t bytes = 0;
  for (const bool has_offsets : {false, true}) {
    if (has_offsets && !depends_on_offsets(problem)) continue;
    const bool may_be_one_hot = has_token_weights(problem, has_offsets) && !deferred_is_weighted(problem);
    for (const bool defers_db : {false, true}) {
      if (defers_db && !may_be_one_hot) continue;
      BackwardOperands operands = {};
      operands.has_offsets = has_offsets;
      operands.defers_db = defers_db;
      bytes = std::max(bytes, plan_backward(problem, operands, device).workspace_bytes);
    }
  }
  return bytes;
}

}  // namespace lily::cuda
