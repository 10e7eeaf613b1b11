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
// a router dw, which requires D. The model of time (model.h) chooses among the last three, and the tiles.
#include <cmath>

#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

class BackwardPlanner : Planner {
 public:
  BackwardPlanner(const lily_problem &problem, const BackwardOperands &operands, const Device &device,
                  const Restriction &only)
      : Planner(problem, operands.has_offsets, device, only),
        operands_(operands),
        d_in_(static_cast<int>(problem.d_in)),
        token_routing_(problem.routing == LILY_ROUTING_TOKEN) {}

  BackwardPlan plan() {
    plan_.engine = engine_;
    plan_.is_supported = true;
    plan_.has_token_weights = has_token_weights_;
    plan_.is_large = !plan_.has_token_weights && rank_ > kLargeRank;
    plan_.one_hot = plan_.has_token_weights && operands_.defers_db && !deferred_is_weighted(problem_);
    find_needs();
    choose_tiles();
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
    plan_.needs_d_weights = routes_ && (plan_.needs_q || plan_.needs_d_router);
    plan_.counts_kept = routes_ && !plan_.has_token_weights && operands_.has_mask;
    plan_.combines = !plan_.has_token_weights && !(plan_.is_large && transposed()) &&
                     (plan_.needs_q || (plan_.needs_d_weights && plan_.counts_kept));
  }

  void plan_casts() {
    const bool reads_b = plan_.needs_q || plan_.needs_d_weights;
    const int32_t activation = problem_.activation_dtype;
    plan_.dy_cast = cast_activation(d_out_, activation, operands_.dy, plan_.needs_db || reads_b);
    plan_.x_cast = cast_activation(d_in_, activation, operands_.x, operands_.has_da);
    plan_.a_cast = cast_parameter(rank_, d_in_, operands_.a, operands_.has_dx);
    if (has_token_weights_)
      plan_.b_cast = cast_parameter(int64_t{experts_} * rank_, d_out_, operands_.b, reads_b);
    else
      plan_.hidden_cast = cast_activation(rank_, hidden_dtype(problem_), operands_.hidden, needs_outer_of_dy());
    if (plan_.is_large && transposed()) plan_.b_cast = cast_parameter(d_out_, rank_, operands_.b, reads_b);
    plan_.combine_grid = plan_.combines ? combine_blocks() : Grid{};
    plan_.cast_combines = plan_.combines && !plan_.d_first && !plan_.reads_dy_once;
    if (tokens_ > 0)
      add_casts(plan_.launches, model_, {plan_.dy_cast, plan_.x_cast, plan_.hidden_cast, plan_.a_cast, plan_.b_cast},
                plan_.cast_combines ? plan_.combine_grid.blocks() : 0,
                plan_.cast_combines ? model_.combine(0) : Work{});
  }

  void choose_tiles() {
    plan_.shrink_rows = has_token_weights_ ? experts_ * rank_ : rank_;
    plan_.outer_rows = plan_.one_hot ? static_cast<int>(problem_.groups) * rank_ : plan_.shrink_rows;
    plan_.router_split_tokens =
        std::clamp(round_up(ceil_divide(tokens_, kRouterSplits), kRouterTile), kLeastRouterTokens, kMostRouterTokens);
    plan_.router_splits = ceil_divide(tokens_, plan_.router_split_tokens);
    plan_.router_element_tiles = ceil_divide(experts_ * rank_, kRouterElements);
    // At most two blocks per multiprocessor, because each adds the partial sums of dw, or dw of its groups.
    plan_.hidden_tokens =
        kHiddenTokens * std::max(1, ceil_divide(ceil_divide(tokens_, kHiddenTokens), 2 * device_.multiprocessors));
    if (plan_.is_large)
      choose_large();
    else
      choose_small();
  }

  // The time of `reduce` for one gradient, without that of the launch itself.
  double reduce_seconds(int dy_splits, int x_splits) const {
    return model_.seconds(model_.reduce(dy_splits, x_splits, plan_.outer_rows, 1)) -
           model_.seconds(model_.reduce(1, 1, plan_.outer_rows, 1));
  }
  // The launch of `reduce`.
  double reduce_launch_seconds() const {
    Work empty = model_.reduce(1, 1, plan_.outer_rows, 1);
    empty.read = empty.written = empty.requested = 0;
    return model_.seconds(empty);
  }

  // Calls choose(splits) with splits false, where no tokens may be split, and with true; choose returns the time.
  // Without splits and without a router there is no launch of `reduce`.
  template <typename Choose>
  void choose_splits(const Choose &choose) {
    if (routes_ || choose(true) + reduce_launch_seconds() < choose(false)) choose(true);
  }

  struct DyChoice {
    Walk walk;
    const DyRow *row;  // null if dy is read once
    bool d_first, once;
  };

  void choose_small() {
    choose_splits([&](bool may_split) {
      const Fastest<DyChoice> dy = choose_dy(may_split);
      const Fastest<Walk> x = choose_x(may_split);
      plan_.is_supported = dy.found && x.found;
      plan_.dy = dy.best.walk;
      dy_row_ = dy.best.row;
      plan_.tile_tokens = dy_row_ != nullptr ? dy_row_->tokens.tile.block_m : 0;
      plan_.d_first = dy.best.d_first;
      plan_.reads_dy_once = dy.best.once;
      plan_.x = x.best;
      return dy.seconds + x.seconds;
    });
    plan_.completes_d_hidden = completes_d_hidden(plan_.d_first);
    plan_.d_weights_partials = plan_.dy.outer_blocks();
  }

  // The token blocks of backward_dy know dw of their tokens, or it is not required, or D is computed before q.
  bool completes_d_hidden(bool d_first) const { return !routes_ || (has_token_weights_ ? token_routing_ : d_first); }

  // Selects how the dy phase reads dy:
  //
  //   once     in one launch, with partial sums of q and D
  //   d_first  one pooling group with a router: D and C in one launch, then q and dh in the next
  //   both     token blocks and column blocks in one launch; with a router, dh is another launch
  //
  // The second reading of dy comes from L2 as far as the dy of the splits in flight fits into it.
  Fastest<DyChoice> choose_dy(bool may_split) const {
    Fastest<DyChoice> fastest;
    const WalkShape shape = {plan_.outer_rows, tokens_, d_out_, experts_};
    const double combining = has_token_weights_ ? 0 : model_.seconds(model_.combine(0));
    const int fitting =
        fitting_size(rows_.dy, plan_.shrink_rows, [](const DyRow &row) { return row.columns.tile.block_k; });
    for (const DyRow &row : rows_.dy) {
      if (row.columns.tile.block_k > fitting || excludes(only_.strip, row.columns.tile) ||
          excludes(only_.shrink, row.tokens.tile) || token_bytes(row.tokens, true) > most_shared_bytes(device_))
        continue;
      const Tile &tile = row.columns.tile;
      const int blocks = ceil_divide(plan_.outer_rows, tile.block_k) * ceil_divide(d_out_, tile.block_n);
      for_each_split(tokens_, tile.block_m, device_, blocks, [&](int split_tokens) {
        const Walk walk = strip_walk(row.columns, device_, shape, false, true, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        const double reduce = reduce_seconds(walk.splits, 1);
        fastest.consider(
            {walk, &row, false, false},
            combining + model_.seconds(dy_work(row, walk, completes_d_hidden(false))) +
                (completes_d_hidden(false) ? 0 : model_.seconds(model_.d_hidden(1, walk.outer_blocks(), plan_))) +
                reduce);
        if (!routes_ || has_token_weights_) return;
        fastest.consider({walk, &row, true, false}, model_.seconds(dy_columns_work(row, walk)) +
                                                        model_.seconds(dy_tokens_work(row, walk)) + reduce);
      });
    }
    if (has_token_weights_) return fastest;
    for (const OnceRow &row : rows_.once)
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_out_, row.tile.block_n), [&](int split_tokens) {
        const Walk walk = once_walk(row, device_, shape, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        fastest.consider({walk, nullptr, false, true},
                         model_.seconds(model_.dy_once(row, walk)) +
                             model_.seconds(model_.d_hidden(walk.column_tiles, walk.outer_blocks(), plan_)) +
                             reduce_seconds(walk.splits, 1));
      });
    return fastest;
  }

  Work dy_work(const DyRow &row, const Walk &walk, bool completes) const {
    return model_.dy(row.columns, walk, row.tokens, row.tokens.tile.block_m, plan_.outer_rows, completes);
  }
  Work dy_columns_work(const DyRow &row, const Walk &walk) const { return model_.dy_columns(row.columns, walk); }
  Work dy_tokens_work(const DyRow &row, const Walk &walk) const {
    return model_.dy_tokens(row.tokens, row.tokens.tile.block_m, walk.outer_blocks());
  }

  Fastest<Walk> choose_x(bool may_split) const {
    Fastest<Walk> fastest;
    const WalkShape shape = {rank_, tokens_, d_in_, experts_};
    const int fitting = fitting_block_k(rows_.x, rank_);
    for (const StripRow &row : rows_.x) {
      if (row.tile.block_k > fitting || excludes(only_.strip, row.tile)) continue;
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_in_, row.tile.block_n), [&](int split_tokens) {
        const Walk walk = strip_walk(row, device_, shape, true, true, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        fastest.consider(walk, model_.seconds(model_.x(row, walk, plan_)) + reduce_seconds(1, walk.splits));
      });
    }
    return fastest;
  }

  void choose_large() {
    choose_splits([&](bool may_split) {
      const auto dy_seconds = [&](const LargeRow &row, const Walk &walk) {
        const double of_d = model_.seconds(model_.large_outer(row, &walk, nullptr, plan_));
        return of_d + choose_large_d_hidden(walk.outer_blocks()).seconds + reduce_seconds(walk.splits, 1);
      };
      const auto x_seconds = [&](const LargeRow &row, const Walk &walk) {
        return model_.seconds(model_.large_outer(row, nullptr, &walk, plan_)) + reduce_seconds(1, walk.splits);
      };
      Fastest<Walk> dy, x;
      for (const LargeRow &row : rows_.large) {
        if (excludes(only_.large, row.tile)) continue;
        const Fastest<Walk> dy_of_row = choose_large_walk(row, d_out_, may_split, dy_seconds),
                            x_of_row = choose_large_walk(row, d_in_, may_split, x_seconds);
        if (!dy_of_row.found || !x_of_row.found) continue;
        // Without a router both are in one launch and have the same tile.
        const bool is_fastest = !dy.found || dy_of_row.seconds + x_of_row.seconds < dy.seconds + x.seconds;
        if (routes_ ? !dy.found || dy_of_row.seconds < dy.seconds : is_fastest) dy = dy_of_row;
        if (routes_ ? !x.found || x_of_row.seconds < x.seconds : is_fastest) x = x_of_row;
      }
      plan_.is_supported = dy.found;
      plan_.dy = dy.best;
      plan_.x = x.best;
      return dy.seconds + x.seconds;
    });
    plan_.d_weights_partials = plan_.dy.outer_blocks();
  }

  template <typename Seconds>
  Fastest<Walk> choose_large_walk(const LargeRow &row, int columns, bool may_split, const Seconds &seconds) const {
    Fastest<Walk> fastest;
    const WalkShape shape = {rank_, tokens_, columns, experts_};
    for_each_share(rank_, row.tile.block_m, row_unit(row), [&](int tile_rows) {
      const int blocks = ceil_divide(rank_, tile_rows) * ceil_divide(columns, row.tile.block_n);
      for_each_split(tokens_, kLeastLargeDepth, device_, blocks, [&](int split_tokens) {
        const Walk walk = large_walk(row, device_, shape, tile_rows, split_tokens);
        if (walk.column_tiles != 0 && (walk.splits == 1 || may_split)) fastest.consider(walk, seconds(row, walk));
      });
    });
    return fastest;
  }

  Fastest<ProductChoice> choose_large_d_hidden(int d_weights_partials) const {
    return choose_hidden(experts_, [&](const LargeRow &row, const ProductPlan &plan) {
      return model_.large_d_hidden(row, plan, d_weights_partials);
    });
  }

  // Least tokens of a split of a large rank: writing and adding partial sums costs as much as a few hundred tokens.
  static constexpr int kLeastLargeDepth = 256;

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
    if (!to.has_token_weights && !to.reads_dy_once && !(to.is_large && transposed()))
      to.c = take(workspace, int64_t{rank_} * to.c_pitch, rows_.scalar_bytes);
    if (to.has_token_weights && routes_) to.token_d_weights = take(workspace, problem_.tokens * experts_);
    if (routes_ && !to.has_token_weights) {
      to.d_weights = take(workspace, int64_t{to.d_weights_partials} * experts_);
      to.kept = take(workspace, 1);
    }
    if (to.dy.splits > 1) to.db_partials = take(workspace, to.dy.splits * to.db_partial);
    if (to.x.splits > 1) to.da_partials = take(workspace, to.x.splits * to.da_partial);
    if (routes_) to.router_partials = take(workspace, to.router_splits * to.router_partial);
    lay_out_casts(workspace, rows_.scalar_bytes, {&to.dy_cast, &to.x_cast, &to.hidden_cast, &to.a_cast, &to.b_cast});
    to.workspace_bytes = workspace.bytes();
  }

  Grid combine_blocks() const { return plan_.needs_q ? combine_grid(rank_, d_out_) : Grid{1, 1, 1}; }

  // Blocks that hold a tile of D are required for dB and for dw.
  bool needs_outer_of_dy() const { return plan_.needs_db || (plan_.needs_d_weights && !plan_.has_token_weights); }

  // Shared memory of the token blocks of backward_dy.
  int token_bytes(const ShrinkRow &row, bool completes) const {
    const int completion = row.product_bytes + d_hidden_scratch(row.tile.block_m, experts_) * kFloat;
    return completes ? std::max(row.bytes, completion) : row.bytes;
  }

  void add_dy() {
    if (!plan_.is_supported) return;
    const Walk &dy = plan_.dy;
    const ShrinkRow &row = dy_row_->tokens;
    const int bytes = token_bytes(row, plan_.completes_d_hidden);
    const auto add_launch = [&](Step step, int64_t blocks, int shared_bytes, const Work &work) {
      if (blocks > 0)
        add(plan_.launches, step, row.tile, dy.tile, {static_cast<int>(blocks), 1, 1}, shared_bytes, work, row.threads);
    };
    const bool needs_tokens = plan_.needs_q || (has_token_weights_ && plan_.needs_d_weights);
    const int split_tokens = plan_.d_first ? tokens_ : dy.split_tokens;
    if (needs_tokens) plan_.token_tiles = ceil_divide(split_tokens, plan_.tile_tokens);
    plan_.q_row_tiles = has_token_weights_ ? 1 : ceil_divide(rank_, dy.tile.block_k);
    plan_.dy_row_tiles = needs_outer_of_dy() ? dy.row_tiles : 0;
    const int token_blocks = plan_.token_tiles * plan_.q_row_tiles;
    const int column_blocks = dy.column_tiles * plan_.dy_row_tiles;
    if (plan_.d_first) {
      add_launch(Step::kDyColumns, column_blocks * dy.splits + plan_.combine_grid.blocks(), dy.shared_bytes,
                 dy_columns_work(*dy_row_, dy));
      add_launch(Step::kDyTokens, token_blocks, bytes, dy_tokens_work(*dy_row_, dy));
    } else {
      add_launch(Step::kDy, int64_t{token_blocks + column_blocks} * dy.splits, std::max(bytes, dy.shared_bytes),
                 dy_work(*dy_row_, dy, plan_.completes_d_hidden));
    }
    if (!(needs_tokens && plan_.completes_d_hidden)) add_d_hidden();
  }

  // dh from q or its partial sums; if only dR is required, only dl.
  void add_d_hidden() {
    if (!plan_.needs_q && !plan_.needs_d_router) return;
    add(plan_.launches, Step::kDHidden, {}, {}, {ceil_divide(tokens_, plan_.hidden_tokens), 1, 1},
        backward_hidden_bytes(experts_, has_token_weights_),
        model_.d_hidden(plan_.reads_dy_once ? plan_.dy.column_tiles : 1, plan_.d_weights_partials, plan_));
  }

  void add_dy_once() {
    const Walk &dy = plan_.dy;
    add(plan_.launches, Step::kDyOnce, dy.tile, {}, {dy.outer_blocks(), 1, 1}, dy.shared_bytes,
        model_.dy_once(row_of(rows_.once, dy.tile), dy));
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
          model_.x(row_of(rows_.x, x.tile), x, plan_), row_of(rows_.x, x.tile).threads);
  }

  void add_large_launches() {
    const auto dx_work = [this](const LargeRow &row, const ProductPlan &plan) { return model_.large_dx(row, plan); };
    const Fastest<ProductChoice> d_hidden = choose_large_d_hidden(plan_.d_weights_partials),
                                 dx = choose_output(d_in_, dx_work);
    plan_.is_supported = plan_.is_supported && d_hidden.found && dx.found;
    if (!plan_.is_supported) return;
    plan_.dy_row_tiles = needs_outer_of_dy() ? plan_.dy.row_tiles : 0;
    const int dy_blocks = needs_outer_of_dy() ? plan_.dy.outer_blocks() : 0;
    if (routes_ && dy_blocks > 0) {
      const LargeRow &row = row_of(rows_.large, plan_.dy.tile);
      add(plan_.launches, Step::kLargeD, row.tile, {}, {dy_blocks, 1, 1}, plan_.dy.shared_bytes,
          model_.large_outer(row, &plan_.dy, nullptr, plan_), row.threads());
    }
    if (plan_.needs_q) {
      plan_.large_d_hidden = d_hidden.best.plan;
      const LargeRow &row = *d_hidden.best.row;
      add_product(plan_.launches, Step::kLargeDHidden, d_hidden.best, rank_, row.hidden_bytes(experts_),
                  model_.large_d_hidden(row, plan_.large_d_hidden, plan_.d_weights_partials));
    } else {
      add_d_hidden();
    }
    if (operands_.has_dx) {
      plan_.large_dx = dx.best.plan;
      const LargeRow &row = *dx.best.row;
      add_product(plan_.launches, Step::kLargeDx, dx.best, d_in_, row.output_bytes, dx_work(row, plan_.large_dx));
    }
    plan_.outer_blocks = operands_.has_da ? plan_.x.outer_blocks() : 0;
    if (const int blocks = plan_.outer_blocks + (routes_ ? router_blocks() : dy_blocks); blocks > 0) {
      const LargeRow &row = row_of(rows_.large, plan_.x.tile);
      add(plan_.launches, Step::kLargeDa, row.tile, {}, {blocks, 1, 1},
          bytes_with_router(plan_.x.shared_bytes, experts_),
          model_.large_outer(row, routes_ ? nullptr : &plan_.dy, &plan_.x, plan_), row.threads());
    }
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
    if (blocks > 0)
      add(plan_.launches, Step::kReduce, {}, {}, {blocks, 1, 1}, 0,
          model_.reduce(plan_.dy.splits, plan_.x.splits, plan_.outer_rows, routes_ ? plan_.router_splits : 0));
  }

  static constexpr int kFloat = sizeof(float);

  const BackwardOperands &operands_;
  const int d_in_;
  const bool token_routing_;
  const DyRow *dy_row_ = nullptr;
  BackwardPlan plan_ = {};
};

}  // namespace

BackwardPlan plan_backward(const lily_problem &problem, const BackwardOperands &operands, const Device &device,
                           const Restriction &only) {
  return BackwardPlanner(problem, operands, device, only).plan();
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
