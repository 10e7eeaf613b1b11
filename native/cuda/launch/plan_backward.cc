// The plan of backward. Symbols as in docs/math.md.
//
//   dy phase with dh | x phase | reduce                    token routing, and weights that are given per sequence
//   dy phase | dh | x phase | reduce                       sequences
//   C | dy phase with dh | x phase | reduce                one pooling group without a router
//   C and D | q and dh | x phase | reduce                  one pooling group with a router: dy is small; or the rank
//   large dy phase, once | dh | x phase | reduce                 the rank is small, and dy larger than L2 C | dy phase
//   | dh | x phase | reduce                   otherwise
//
// The dy phase has the products that read dy, the x phase those that read dh. dh requires q, which requires C, and with
// a router dw, which requires D. The last row has a fifth launch, because forming dh in every block of the x phase
// takes longer than a launch, and so does reading dy twice.
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

class BackwardPlanner {
 public:
  BackwardPlanner(const lily_problem &problem, const BackwardOperands &operands, const Device &device)
      : problem_(problem),
        operands_(operands),
        device_(device),
        rows_(tile_rows(engine_kind(problem, device))),
        tokens_(static_cast<int>(problem.tokens)),
        rank_(static_cast<int>(problem.rank)),
        experts_(static_cast<int>(problem.experts)),
        d_in_(static_cast<int>(problem.d_in)),
        d_out_(static_cast<int>(problem.d_out)),
        routes_(has_router(problem)),
        token_routing_(problem.routing == LILY_ROUTING_TOKEN) {}

  BackwardPlan plan() {
    plan_.engine = engine_kind(problem_, device_);
    plan_.is_supported = true;
    plan_.has_token_weights = has_token_weights(problem_, operands_.has_offsets);
    plan_.is_large = !plan_.has_token_weights && rank_ > kLargeRank;
    plan_.one_hot = plan_.has_token_weights && operands_.defers_db && !deferred_is_weighted(problem_);
    find_needs();
    choose_tiles();
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
    plan_.needs_d_weights = routes_ && (plan_.needs_q || plan_.needs_d_router);
    plan_.counts_kept = routes_ && !plan_.has_token_weights && operands_.has_mask;
    plan_.combines = !plan_.has_token_weights && (plan_.needs_q || (plan_.needs_d_weights && plan_.counts_kept));
  }

  void choose_tiles() {
    plan_.shrink_rows = plan_.has_token_weights ? experts_ * rank_ : rank_;
    plan_.outer_rows = plan_.one_hot ? static_cast<int>(problem_.groups) * rank_ : plan_.shrink_rows;
    // The dy phase has two kinds of blocks, whose tiles cover equally many rows: those of C or B, and those of D or dB.
    block_n_ = shrink_block_n(rows_, plan_.shrink_rows);
    plan_.tile_tokens = shrink_tokens(most_shrink_tokens(rows_, device_, block_n_), tokens_, device_);
    if (plan_.is_large) {
      plan_.dy = large_walk(rows_, device_, {rank_, tokens_, d_out_, experts_}, false, true);
      plan_.x = large_walk(rows_, device_, {rank_, tokens_, d_in_, experts_}, true, true);
    } else {
      plan_.dy = find_dy_walk();
      plan_.x = strip_walk(rows_, device_, {rank_, tokens_, d_in_, experts_}, true, true);
    }
    // The token blocks of backward_dy know dw of their tokens, or it is not required, or D is computed before q.
    plan_.completes_d_hidden = !routes_ || (plan_.has_token_weights ? token_routing_ : plan_.d_first);
    // At most two blocks per multiprocessor, because each adds the partial sums of dw, or dw of its groups.
    plan_.hidden_tokens =
        kHiddenTokens * std::max(1, ceil_divide(ceil_divide(tokens_, kHiddenTokens), 2 * min_blocks(device_)));
    plan_.d_weights_partials = plan_.dy.outer_blocks();
    plan_.router_split_tokens =
        std::clamp(round_up(ceil_divide(tokens_, kRouterSplits), kRouterTile), kLeastRouterTokens, kMostRouterTokens);
    plan_.router_splits = ceil_divide(tokens_, plan_.router_split_tokens);
    plan_.router_element_tiles = ceil_divide(experts_ * rank_, kRouterElements);
  }

  // Selects the walk of the dy phase over columns, and whether it reads dy once. The cost of each choice is the bytes
  // of partial sums of q and D, which are written and read, plus dy if it is loaded from memory a second time.
  //
  //   once    partial sums of q and D    if the table has a tile: nothing is read twice
  //   split   partial sums of D          token and column blocks of a split share its dy through L2
  //   twice   dy, partial sums of D      as split, with no more splits than the device needs
  //
  // If dy fits into half of L2, it is loaded from memory once in any case.
  Walk find_dy_walk() {
    const int outer_rows = plan_.outer_rows;
    const Walk twice = strip_walk(rows_, device_, {outer_rows, tokens_, d_out_, experts_}, false, true, block_n_);
    const int64_t row_bytes = int64_t{d_out_} * rows_.scalar_bytes, dy_bytes = tokens_ * row_bytes;
    const auto l2_bytes = static_cast<int64_t>(device_.l2_bytes);
    plan_.d_first = routes_ && !plan_.has_token_weights && dy_bytes <= l2_bytes / kReadTwice;
    if (twice.column_tiles == 0 || dy_bytes <= l2_bytes / 2) return twice;
    const auto partial_bytes = [&](int64_t q_partials, int64_t d_partials) {
      return 8 * (rank_ * q_partials * tokens_ + (d_partials > 1 ? outer_rows * d_partials * d_out_ : 0));
    };
    const Walk split = split_for_cache(twice, l2_bytes / kSplitsInCache / row_bytes);
    const Walk once = plan_.has_token_weights ? Walk{} : find_once_walk();
    const int64_t twice_bytes = dy_bytes + partial_bytes(0, twice.splits);
    plan_.reads_dy_once = once.column_tiles != 0 && partial_bytes(once.column_tiles, once.splits) < twice_bytes;
    if (plan_.reads_dy_once) return once;
    return partial_bytes(0, split.splits) < twice_bytes ? split : twice;
  }

  // Up to one eighth of L2, two launches read dy: the second finds it in L2, in less time than the two launches take
  // that this saves (C, dh).
  static constexpr int kReadTwice = 8;

  // One eighth of L2 per split: several splits are in flight at a time, and other data pass through L2 too.
  static constexpr int kSplitsInCache = 8;

  // The same walk with splits of at most `tokens` tokens, in whole tiles.
  Walk split_for_cache(Walk walk, int64_t tokens) const {
    const int64_t tiles = std::max<int64_t>(1, tokens / kMaxStripBlockM);
    walk.split_tokens = static_cast<int>(std::min<int64_t>(walk.split_tokens, tiles * kMaxStripBlockM));
    walk.splits = ceil_divide(tokens_, walk.split_tokens);
    return walk;
  }

  // column_tiles 0: the table has no tile.
  Walk find_once_walk() const {
    for (const OnceRow &row : rows_.once) {
      if (row.tile.block_k < rank_ || row.bytes > most_shared_bytes(device_)) continue;
      const int column_tiles = ceil_divide(d_out_, row.tile.block_n);
      const Split split = split_tokens(tokens_, row.tile.block_m, column_tiles, min_blocks(device_));
      return {row.tile, row.bytes, column_tiles, 1, 0, split.count, split.tokens};
    }
    return {};
  }

  // Elements of one partial sum of a gradient, with rows padded to whole float4.
  static int64_t partial_size(int rows, int columns) { return int64_t{rows} * round_up(columns, 4); }

  bool transposed() const { return problem_.routing == LILY_ROUTING_NONE; }

  void lay_out() {
    BackwardPlan &to = plan_;
    to.q_pitch = round_up(rank_, 4);
    to.c_pitch = round_up(d_out_, vector_elements(rows_));
    to.d_hidden_pitch = round_up(rank_, vector_elements(rows_));
    to.db_partial = transposed() ? partial_size(d_out_, rank_) : partial_size(to.outer_rows, d_out_);
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
    if (!to.has_token_weights && !to.reads_dy_once)
      to.c = take(workspace, int64_t{rank_} * to.c_pitch, rows_.scalar_bytes);
    if (to.has_token_weights && routes_) to.token_d_weights = take(workspace, problem_.tokens * experts_);
    if (routes_ && !to.has_token_weights) {
      to.d_weights = take(workspace, int64_t{to.d_weights_partials} * experts_);
      to.kept = take(workspace, 1);
    }
    if (to.dy.splits > 1) to.db_partials = take(workspace, to.dy.splits * to.db_partial);
    if (to.x.splits > 1) to.da_partials = take(workspace, to.x.splits * to.da_partial);
    if (routes_) to.router_partials = take(workspace, to.router_splits * to.router_partial);
    to.workspace_bytes = workspace.bytes();
  }

  Grid combine_blocks() const { return plan_.needs_q ? combine_grid(rank_, d_out_) : Grid{1, 1, 1}; }

  // Blocks that hold a tile of D are required for dB and for dw.
  bool needs_outer_of_dy() const { return plan_.needs_db || (plan_.needs_d_weights && !plan_.has_token_weights); }

  void add_dy() {
    plan_.is_supported = plan_.is_supported && plan_.dy.column_tiles != 0;
    if (!plan_.is_supported) return;
    const Walk &dy = plan_.dy;
    const ShrinkRow *row = find_shrink_row(rows_, dy.tile.block_k, plan_.tile_tokens);
    plan_.is_supported = row != nullptr;
    if (!plan_.is_supported) return;
    const int completion = row->product_bytes + d_hidden_scratch(row->tile.block_m, experts_) * kFloat;
    const int token_bytes = plan_.completes_d_hidden ? std::max(row->bytes, completion) : row->bytes;
    const auto add_launch = [&](Step step, int64_t blocks, int bytes) {
      if (blocks > 0) add(plan_.launches, {step, row->tile, dy.tile, {static_cast<int>(blocks), 1, 1}, bytes});
    };
    const bool needs_tokens = plan_.needs_q || (plan_.has_token_weights && plan_.needs_d_weights);
    const int split_tokens = plan_.d_first ? round_up(tokens_, kMaxStripBlockM) : dy.split_tokens;
    if (needs_tokens) plan_.token_tiles = ceil_divide(split_tokens, plan_.tile_tokens);
    plan_.q_row_tiles = plan_.has_token_weights ? 1 : ceil_divide(rank_, dy.tile.block_k);
    plan_.dy_row_tiles = needs_outer_of_dy() ? dy.row_tiles : 0;
    const int token_blocks = plan_.token_tiles * plan_.q_row_tiles;
    const int column_blocks = dy.column_tiles * plan_.dy_row_tiles;
    if (plan_.d_first) {
      plan_.combine_grid = plan_.combines ? combine_blocks() : Grid{};
      add_launch(Step::kDyColumns, column_blocks * dy.splits + plan_.combine_grid.blocks(), dy.shared_bytes);
      add_launch(Step::kDyTokens, token_blocks, token_bytes);
    } else {
      if (plan_.combines) add(plan_.launches, {Step::kCombine, {}, {}, combine_blocks(), 0});
      add_launch(Step::kDy, int64_t{token_blocks + column_blocks} * dy.splits, std::max(token_bytes, dy.shared_bytes));
    }
    if (!(needs_tokens && plan_.completes_d_hidden)) add_d_hidden();
  }

  // dh from q or its partial sums; if only dR is required, only dl.
  void add_d_hidden() {
    if (!plan_.needs_q && !plan_.needs_d_router) return;
    add(plan_.launches, {Step::kDHidden,
                         {},
                         {},
                         {ceil_divide(tokens_, plan_.hidden_tokens), 1, 1},
                         backward_hidden_bytes(experts_, plan_.has_token_weights)});
  }

  void add_dy_once() {
    const Walk &dy = plan_.dy;
    add(plan_.launches, {Step::kDyOnce, dy.tile, {}, {dy.outer_blocks(), 1, 1}, dy.shared_bytes});
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
    if (grid > 0) add(plan_.launches, {Step::kX, x.tile, {}, {grid, 1, 1}, bytes_with_router(x, experts_)});
  }

  void add_large_launches() {
    const Walk &dy = plan_.dy, &x = plan_.x;
    plan_.is_supported = dy.column_tiles != 0 && x.column_tiles != 0;
    if (!plan_.is_supported) return;
    plan_.dy_row_tiles = needs_outer_of_dy() ? dy.row_tiles : 0;
    plan_.combine_grid = plan_.combines ? combine_blocks() : Grid{};
    const int dy_grid =
        static_cast<int>((plan_.dy_row_tiles > 0 ? dy.outer_blocks() : 0) + plan_.combine_grid.blocks());
    if (dy_grid > 0) add(plan_.launches, {Step::kLargeDy, dy.tile, {}, {dy_grid, 1, 1}, bytes_with_router(dy, 0)});
    if (plan_.needs_q) {
      const Walk walk = large_walk(rows_, device_, {0, tokens_, rank_, experts_}, true, false);
      add(plan_.launches,
          {Step::kLargeDHidden, walk.tile, {}, {walk.token_tiles, walk.column_tiles, 1}, walk.shared_bytes});
    } else {
      add_d_hidden();
    }
    plan_.expand_blocks = operands_.has_dx ? x.expand_blocks() : 0;
    plan_.outer_blocks = operands_.has_da ? x.outer_blocks() : 0;
    const int x_grid = plan_.expand_blocks + plan_.outer_blocks + router_blocks();
    if (x_grid > 0) add(plan_.launches, {Step::kLargeX, x.tile, {}, {x_grid, 1, 1}, bytes_with_router(x, experts_)});
  }

  // Adds partial sums; without tokens it writes zeros.
  void add_reduce() {
    const bool empty = tokens_ == 0;
    plan_.reduces_db = plan_.needs_db && (plan_.dy.splits > 1 || empty);
    plan_.reduces_da = operands_.has_da && (plan_.x.splits > 1 || empty);
    int blocks = 0;
    if (plan_.reduces_db)
      blocks += transposed() ? reduce_blocks(d_out_, rank_) : reduce_blocks(plan_.outer_rows, d_out_);
    if (plan_.reduces_da) blocks += reduce_blocks(rank_, d_in_);
    if (plan_.needs_d_router) blocks += reduce_blocks(experts_, rank_);
    if (blocks > 0) add(plan_.launches, {Step::kReduce, {}, {}, {blocks, 1, 1}, 0});
  }

  static constexpr int kFloat = sizeof(float);

  const lily_problem &problem_;
  const BackwardOperands &operands_;
  const Device &device_;
  const TileRows &rows_;
  const int tokens_, rank_, experts_, d_in_, d_out_;
  const bool routes_, token_routing_;
  int block_n_ = 0;
  BackwardPlan plan_ = {};
};

}  // namespace

BackwardPlan plan_backward(const lily_problem &problem, const BackwardOperands &operands, const Device &device) {
  return BackwardPlanner(problem, operands, device).plan();
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
