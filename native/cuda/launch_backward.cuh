// The launches of backward for one engine, at most four. Symbols as in docs/math.md.
//
//   combine | dy phase | dh phase | reduce                    one pooling group
//   dy phase, once | sum of q | dh phase | reduce             one pooling group, small rank, dy larger than L2
//   dy phase | sums per sequence | dh phase | reduce          weights per token
//   combine and D | dh | dh phase | reduce                    one pooling group, large rank
//
// The dy phase has the products that read dy, the dh phase those that read dh.
#pragma once

#include "cuda/backward_dy.cuh"
#include "cuda/backward_x.cuh"
#include "cuda/launch.cuh"

namespace lily::cuda {

template <typename Engine>
class Backward {
 public:
  using Table = Rows<Engine>;
  using Scalar = typename Engine::Scalar;

  Backward(const lily_backward &call, const Device &device)
      : call_(call),
        device_(device),
        problem_(call.problem),
        tokens_(static_cast<int>(problem_.tokens)),
        rank_(static_cast<int>(problem_.rank)),
        experts_(static_cast<int>(problem_.experts)),
        d_in_(static_cast<int>(problem_.d_in)),
        d_out_(static_cast<int>(problem_.d_out)),
        has_token_weights_(has_token_weights(problem_, call.tokens.sequence_offsets != nullptr)),
        routes_(has_router(problem_)),
        token_routing_(problem_.routing == LILY_ROUTING_TOKEN),
        from_logits_(!token_routing_ && problem_.pool == LILY_POOL_LOGITS),
        transposed_(problem_.routing == LILY_ROUTING_NONE),
        one_hot_(has_token_weights_ && call.deferred_db != nullptr && !deferred_is_weighted(problem_)),
        shrink_rows_(has_token_weights_ ? experts_ * rank_ : rank_),
        outer_rows_(one_hot_ ? static_cast<int>(problem_.groups) * rank_ : shrink_rows_),
        shrink_block_n_(fitting_size(typename Table::Shrink{}, shrink_rows_, [](auto row) { return row.kBlockN; })),
        tile_tokens_(shrink_tokens(Table::most_tokens(shrink_block_n_), tokens_, device)),
        is_large_(!has_token_weights_ && rank_ > kLargeRank),
        dy_walk_(find_dy_walk()),
        x_walk_(Table::walk(device, {rank_, tokens_, d_in_, experts_}, true, true)),
        dy_large_(Table::large_walk(device, {rank_, tokens_, d_out_, experts_}, false, true)),
        x_large_(Table::large_walk(device, {rank_, tokens_, d_in_, experts_}, true, true)),
        q_pitch_(round_up(rank_, 4)),
        c_pitch_(round_up(d_out_, Table::kVector)),
        router_split_tokens_(std::clamp(round_up(ceil_divide(tokens_, kRouterSplits), kRouterTile), kLeastRouterTokens,
                                        kMostRouterTokens)),
        router_splits_(ceil_divide(tokens_, router_split_tokens_)),
        workspace_(call.workspace) {
    if (is_large_)
      d_hidden_ = workspace_.take<Scalar>(problem_.tokens * d_hidden_pitch());
    else
      q_ = workspace_.take<float>(problem_.tokens * q_pitch_);
    if (reads_dy_once_) q_partials_ = workspace_.take<float>(dy_walk_.column_tiles * problem_.tokens * q_pitch_);
    if (!has_token_weights_ && !reads_dy_once_) c_ = workspace_.take<Scalar>(static_cast<int64_t>(rank_) * c_pitch_);
    if (has_token_weights_ && routes_) token_d_weights_ = workspace_.take<float>(problem_.tokens * experts_);
    if (routes_)
      d_weights_ = workspace_.take<float>((has_token_weights_ ? problem_.groups : d_weights_partials()) * experts_);
    if (routes_) kept_ = workspace_.take<float>(problem_.groups);
    if (dy_splits() > 1) db_partials_ = workspace_.take<float>(dy_splits() * db_partial());
    if (x_splits() > 1) da_partials_ = workspace_.take<float>(x_splits() * da_partial());
    if (routes_) router_partials_ = workspace_.take<float>(static_cast<int64_t>(router_splits_) * router_partial());
  }

  size_t workspace_bytes() const { return workspace_.bytes(); }

  lily_status run() const {
    if (tokens_ > 0 && is_large_) {
      LILY_TRY(run_dy_large());
      LILY_TRY(run_x_large());
    } else if (tokens_ > 0) {
      LILY_TRY(reads_dy_once_ ? run_dy_once() : run_dy());
      LILY_TRY(run_x());
    }
    return run_reduce();
  }

 private:
  cudaStream_t stream() const { return reinterpret_cast<cudaStream_t>(call_.stream); }
  Groups groups() const { return {call_.tokens.sequence_offsets, static_cast<int>(problem_.groups), tokens_}; }
  TokensWithGradient with_gradient() const {
    return {call_.tokens.mask != nullptr ? call_.weights : nullptr, groups(), experts_};
  }
  Operand hidden() const { return contiguous(call_.hidden, rank_, hidden_dtype(problem_)); }

  bool needs_db() const { return call_.db.data != nullptr || call_.deferred_db != nullptr; }
  bool needs_d_router() const { return routes_ && call_.d_router.data != nullptr; }
  bool needs_q() const { return call_.dx.data != nullptr || call_.da.data != nullptr; }
  // dw; with token routing dp.
  bool needs_d_weights() const { return routes_ && (needs_q() || needs_d_router()); }
  // Counts the kept tokens on the device if a mask or sequences make their number unknown to the host.
  bool counts_kept() const { return routes_ && (has_token_weights_ || call_.tokens.mask != nullptr); }

  // Elements of one partial sum of a gradient, with rows padded to whole float4.
  static int64_t partial_size(int rows, int columns) { return static_cast<int64_t>(rows) * round_up(columns, 4); }
  int64_t db_partial() const { return transposed_ ? partial_size(d_out_, rank_) : partial_size(outer_rows_, d_out_); }
  int64_t da_partial() const { return partial_size(rank_, d_in_); }
  int router_partial() const { return round_up(experts_ * rank_, 4); }

  // Selects the walk of the dy phase over columns, and whether it reads dy once. The cost of each choice is the bytes
  // of partial sums of q and D, which are written and read, plus dy if it is loaded from memory a second time.
  //
  //   once    partial sums of q and D    if the table has a tile: nothing is read twice
  //   split   partial sums of D          token and column blocks of a split share its dy through L2
  //   twice   dy, partial sums of D      as split, with no more splits than the device needs
  //
  // If dy fits into half of L2, it is loaded from memory once in any case.
  Walk find_dy_walk() {
    const Walk twice = Table::walk(device_, {outer_rows_, tokens_, d_out_, experts_}, false, true, shrink_block_n_);
    const int64_t row_bytes = d_out_ * static_cast<int64_t>(sizeof(Scalar)), dy_bytes = tokens_ * row_bytes;
    if (twice.column_tiles == 0 || dy_bytes <= static_cast<int64_t>(device_.l2_bytes) / 2) return twice;
    const auto partial_bytes = [&](int64_t q_partials, int64_t d_partials) {
      return 8 * (rank_ * q_partials * tokens_ + (d_partials > 1 ? outer_rows_ * d_partials * d_out_ : 0));
    };
    const Walk split = split_for_cache(twice, static_cast<int64_t>(device_.l2_bytes) / kSplitsInCache / row_bytes);
    const Walk once = has_token_weights_ ? Walk{} : find_once_walk();
    const int64_t twice_bytes = dy_bytes + partial_bytes(0, twice.splits);
    reads_dy_once_ = once.column_tiles != 0 && partial_bytes(once.column_tiles, once.splits) < twice_bytes;
    if (reads_dy_once_) return once;
    return partial_bytes(0, split.splits) < twice_bytes ? split : twice;
  }

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
    Walk once = {};
    for_each_row(typename Table::Once{}, [&](auto row) {
      using Tile = decltype(row);
      if (once.column_tiles != 0 || Tile::kBlockK < rank_ ||
          Tile::kBytes > device_.shared_bytes_per_block - kStaticBytes)
        return;
      const int column_tiles = ceil_divide(d_out_, Tile::kBlockN);
      const Split split = split_tokens(tokens_, Tile::kBlockM, column_tiles, min_blocks(device_));
      once = {Tile::kBlockK, Tile::kBlockN, column_tiles, split.count, 1, split.tokens, Tile::kBytes};
    });
    return once;
  }

  int dy_splits() const { return is_large_ ? dy_large_.splits : dy_walk_.splits; }
  int x_splits() const { return is_large_ ? x_large_.splits : x_walk_.splits; }
  // Number of blocks that hold a tile of D.
  int d_weights_partials() const { return is_large_ ? dy_large_.outer_blocks() : dy_walk_.grid(); }
  int d_hidden_pitch() const { return round_up(rank_, Table::kVector); }

  // Destination of D or dB.
  OuterTarget db_target() const {
    OuterTarget target = {};
    if (needs_db()) {
      target.out = db();
      target.partials = db_partials_;
    }
    target.partial_stride = db_partial();
    target.partial_pitch = round_up(transposed_ ? rank_ : d_out_, 4);
    target.rows = outer_rows_;
    target.columns = d_out_;
    target.transposed = transposed_;
    target.scale = problem_.scaling;
    target.weights = db_weights();
    target.experts = experts_;
    return target;
  }

  Output db() const {
    if (call_.deferred_db != nullptr) return contiguous_output(call_.deferred_db, d_out_, LILY_FLOAT32);
    return output(call_.db);
  }

  // dB_e = w_e D if there is one D; null otherwise.
  const float *db_weights() const {
    return has_token_weights_ || transposed_ || call_.deferred_db != nullptr ? nullptr : call_.weights;
  }

  Experts experts() const { return {operand(call_.b), experts_, rank_, d_out_, transposed_}; }

  Weights weights() const {
    return {transposed_ ? WeightSource::kOne : WeightSource::kGiven, call_.weights, nullptr, 0, experts_};
  }

  DWeights d_weights() const {
    return {experts(), needs_d_weights() && !has_token_weights_ ? d_weights_ : nullptr, d_weights_partials()};
  }

  float *kept_target() const { return needs_d_weights() && counts_kept() ? kept_ : nullptr; }

  bool combines() const { return !has_token_weights_ && (needs_q() || kept_target() != nullptr); }

  Combine combine_call() const {
    Combine call = {};
    call.experts = experts();
    call.weights = weights();
    call.c = contiguous_output(needs_q() ? c_ : nullptr, c_pitch_, kDtype<Scalar>);
    call.mask = call_.tokens.mask;
    call.tokens = tokens_;
    call.kept = kept_target();
    return call;
  }

  dim3 combine_blocks() const {
    return needs_q() ? dim3(ceil_divide(d_out_, kCombineColumns), ceil_divide(rank_, kCombineRows)) : dim3(1);
  }

  lily_status run_combine() const {
    if (!combines()) return LILY_OK;
    return launch(combine<Scalar>, "launching the combine kernel", combine_blocks(), 0, stream(), combine_call());
  }

  lily_status run_dy() const {
    if (dy_walk_.column_tiles == 0) return Table::no_tile();
    LILY_TRY(run_combine());
    BackwardDy call = {};
    if (needs_q() || (has_token_weights_ && needs_d_weights())) {
      call.token_tiles = ceil_divide(dy_walk_.split_tokens, tile_tokens_);
      call.q_row_tiles = has_token_weights_ ? 1 : ceil_divide(rank_, dy_walk_.block_k);
    }
    const Operand right = has_token_weights_ ? operand(call_.b) : contiguous(c_, c_pitch_, kDtype<Scalar>);
    call.shrink = {operand(call_.dy), right, tokens_, d_out_, shrink_rows_, tile_tokens_};
    call.pooled = !has_token_weights_;
    call.scale = problem_.scaling;
    call.q = q_;
    call.q_pitch = q_pitch_;
    call.rank = rank_;
    call.hidden = hidden();
    call.token_weights = {token_routing_ ? call_.probabilities : call_.weights, groups(), experts_, token_routing_};
    call.token_d_weights = needs_d_weights() && has_token_weights_ ? token_d_weights_ : nullptr;
    StripOperands &strip = call.strip;
    strip.lhs.kind = has_token_weights_ ? LeftOperandKind::kU : LeftOperandKind::kHidden;
    strip.lhs.hidden = hidden();
    strip.lhs.rank = rank_;
    strip.lhs.columns = outer_rows_;
    strip.lhs.token_weights = call.token_weights;
    strip.lhs.one_hot = one_hot_;
    strip.lhs.router.experts = experts_;
    strip.x = operand(call_.dy);
    strip.with_gradient = with_gradient();
    strip.tokens = tokens_;
    strip.columns = d_out_;
    strip.split_tokens = dy_walk_.split_tokens;
    call.column_tiles = dy_walk_.column_tiles;
    call.splits = dy_walk_.splits;
    call.target = db_target();
    call.d_weights = d_weights();
    call.row_tiles = needs_db() || call.d_weights.partials != nullptr ? dy_walk_.row_tiles : 0;
    const int grid = (call.token_tiles * call.q_row_tiles + dy_walk_.column_tiles * call.row_tiles) * dy_walk_.splits;
    if (grid == 0) return LILY_OK;
    LILY_TRY(Table::with_strip(dy_walk_, [&](auto strip_row) {
      return Table::with_shrink(dy_walk_.block_k, tile_tokens_, [&](auto row) {
        using Strip = decltype(strip_row);
        using Shrink = decltype(row);
        if constexpr (Shrink::kBlockN == Strip::kBlockK) {
          return launch(backward_dy<Shrink, Strip>, "launching the backward_dy kernel", dim3(grid),
                        std::max(Shrink::kBytes, dy_walk_.bytes), stream(), call);
        } else {
          return LILY_OK;  // with_shrink selects one BLOCK_N; the compiler does not see that
        }
      });
    }));
    if (!needs_d_weights() || !has_token_weights_ || token_routing_) return LILY_OK;
    return launch_pool(
        {PoolKind::kSum, groups(), experts_, token_d_weights_, experts_, call_.tokens.mask, d_weights_, kept_},
        stream());
  }

  lily_status run_dy_once() const {
    BackwardDyOnce call = {};
    call.dy = operand(call_.dy);
    call.hidden = hidden();
    call.experts = experts();
    call.weights = weights();
    call.tokens = tokens_;
    call.split_tokens = dy_walk_.split_tokens;
    call.column_tiles = dy_walk_.column_tiles;
    call.scale = problem_.scaling;
    call.q_partials = q_partials_;
    call.q_pitch = q_pitch_;
    call.target = db_target();
    call.d_weights = d_weights();
    call.mask = call_.tokens.mask;
    call.kept = kept_target();
    call.with_gradient = with_gradient();
    lily_status status = LILY_OK;
    with_row(
        typename Table::Once{}, [&](auto row) { return row.kBlockK == dy_walk_.block_k; },
        [&](auto row) {
          status = launch(backward_dy_once<decltype(row)>, "launching the backward_dy_once kernel",
                          dim3(dy_walk_.grid()), dy_walk_.bytes, stream(), call);
        });
    LILY_TRY(status);
    if (!needs_q()) return LILY_OK;
    Reduce sum = {};
    add_job(sum, {q_partials_, problem_.tokens * q_pitch_, dy_walk_.column_tiles, q_pitch_, tokens_, rank_,
                  problem_.scaling, nullptr, 1, contiguous_output(q_, q_pitch_, LILY_FLOAT32), 0});
    return launch_reduce(sum, stream());
  }

  RouterGradient router_gradient() const {
    RouterGradient router = {};
    router.experts = experts_;
    router.groups = groups();
    if (!routes_) return router;
    router.logit_gradient = from_logits_ ? LogitGradient::kLogits : LogitGradient::kProbabilities;
    router.router = operand(call_.router);
    router.probabilities = call_.probabilities;
    router.weights = call_.weights;
    router.d_weights = token_routing_ ? token_d_weights_ : d_weights_;
    router.per_token = token_routing_;
    router.partial_count = has_token_weights_ ? 0 : d_weights_partials();
    const bool averages = !token_routing_ && !from_logits_;
    router.kept = averages && counts_kept() ? kept_ : nullptr;
    router.kept_constant = averages ? static_cast<float>(tokens_) : 1.0f;
    router.mask = call_.tokens.mask;
    return router;
  }

  // dh as a left operand: computed as it is loaded.
  LeftOperand d_hidden_operand() const {
    LeftOperand lhs = {};
    lhs.kind = LeftOperandKind::kDHidden;
    lhs.hidden = hidden();
    lhs.rank = lhs.columns = rank_;
    lhs.q = q_;
    lhs.q_pitch = q_pitch_;
    lhs.relu = problem_.activation == LILY_ACTIVATION_RELU;
    lhs.router = router_gradient();
    return lhs;
  }

  OuterTarget da_target() const {
    OuterTarget target = {};
    target.out = output(call_.da);
    target.partials = call_.da.data != nullptr ? da_partials_ : nullptr;
    target.partial_stride = da_partial();
    target.partial_pitch = round_up(d_in_, 4);
    target.rows = rank_;
    target.columns = d_in_;
    target.scale = 1.0f;
    return target;
  }

  RouterBlocks router_blocks() const {
    RouterBlocks blocks = {};
    blocks.router = router_gradient();
    if (!needs_d_router()) return blocks;
    blocks.splits = router_splits_;
    blocks.split_tokens = router_split_tokens_;
    blocks.element_tiles = ceil_divide(experts_ * rank_, kRouterElements);
    blocks.tokens = tokens_;
    blocks.rank = rank_;
    blocks.hidden = hidden();
    blocks.partials = router_partials_;
    return blocks;
  }

  lily_status run_x() const {
    if (x_walk_.column_tiles == 0) return Table::no_tile();
    BackwardX call = {};
    StripOperands &strip = call.strip;
    strip.lhs = d_hidden_operand();
    strip.w = operand(call_.a);
    strip.out = output(call_.dx);
    strip.out_scale = 1.0f;
    strip.x = operand(call_.x);
    strip.with_gradient = with_gradient();
    strip.tokens = tokens_;
    strip.columns = d_in_;
    strip.split_tokens = x_walk_.split_tokens;
    call.column_tiles = x_walk_.column_tiles;
    call.splits = x_walk_.splits;
    const int strips = x_walk_.column_tiles * x_walk_.splits;
    const bool needs_dx = call_.dx.data != nullptr, needs_da = call_.da.data != nullptr;
    if (x_walk_.row_tiles == 1) {
      call.expand_blocks = needs_q() ? strips : 0;
    } else {
      call.expand_blocks = needs_dx ? strips : 0;
      call.outer_blocks = needs_da ? x_walk_.grid() : 0;
    }
    call.target = da_target();
    call.router = router_blocks();
    const int grid = call.expand_blocks + call.outer_blocks + call.router.splits * call.router.element_tiles;
    if (grid == 0) return LILY_OK;
    const int router_bytes = lhs_scratch(kRouterTile, experts_) * static_cast<int>(sizeof(float));
    return Table::with_strip(x_walk_, [&](auto row) {
      return launch(backward_x<decltype(row)>, "launching the backward_x kernel", dim3(grid),
                    std::max(x_walk_.bytes, router_bytes), stream(), call);
    });
  }

  // ---- Large ranks ----

  Output d_hidden() const { return contiguous_output(d_hidden_, d_hidden_pitch(), kDtype<Scalar>); }

  // lhs^T x, and lhs w, over the columns of x.
  LargeStrip large_call(const Operand &lhs, const Operand &x, int columns, const LargeWalk &walk) const {
    LargeStrip call = {};
    call.lhs.kind = LeftOperandKind::kHidden;
    call.lhs.hidden = lhs;
    call.lhs.rank = call.lhs.columns = rank_;
    call.tokens = tokens_;
    call.columns = columns;
    call.column_tiles = walk.column_tiles;
    call.splits = walk.splits;
    call.split_tokens = walk.split_tokens;
    call.x = x;
    call.with_gradient = with_gradient();
    return call;
  }

  lily_status run_dy_large() const {
    LargeStrip call = large_call(hidden(), operand(call_.dy), d_out_, dy_large_);
    call.target = db_target();
    call.d_weights = d_weights();
    call.outer_blocks = needs_db() || call.d_weights.partials != nullptr ? dy_large_.outer_blocks() : 0;
    if (combines()) {
      call.combine = combine_call();
      const dim3 blocks = combine_blocks();
      call.combine_column_tiles = static_cast<int>(blocks.x);
      call.combine_blocks = static_cast<int>(blocks.x * blocks.y);
    }
    LILY_TRY(Table::launch_large_strip(call, dy_large_, stream()));
    if (!needs_q()) return LILY_OK;
    LargeShrink shrink = {};
    shrink.operands = {operand(call_.dy), contiguous(c_, c_pitch_, kDtype<Scalar>), tokens_, d_out_, rank_, 0};
    shrink.d_hidden = d_hidden_operand();
    shrink.scale = problem_.scaling;
    shrink.with_gradient = with_gradient();
    shrink.out = d_hidden();
    return Table::launch_large_shrink(shrink, device_, stream());
  }

  lily_status run_x_large() const {
    LargeStrip call = large_call(d_hidden().operand(), operand(call_.x), d_in_, x_large_);
    call.target = da_target();
    call.outer_blocks = call_.da.data != nullptr ? x_large_.outer_blocks() : 0;
    call.w = operand(call_.a);
    call.out = output(call_.dx);
    call.scale = 1.0f;
    call.expand_blocks = call_.dx.data != nullptr ? x_large_.expand_blocks() : 0;
    call.router = router_blocks();
    return Table::launch_large_strip(call, x_large_, stream());
  }

  static void add_job(Reduce &reduce, ReduceJob job) {
    job.first_block = reduce.blocks;
    reduce.jobs[reduce.count++] = job;
    reduce.blocks += reduce_blocks(job.rows, job.columns);
  }

  // Adds partial sums; without tokens it writes zeros.
  lily_status run_reduce() const {
    Reduce reduce = {};
    const bool empty = tokens_ == 0;
    if (needs_db() && (dy_splits() > 1 || empty)) {
      const OuterTarget target = db_target();
      add_job(reduce, {db_partials_, target.partial_stride, empty ? 0 : dy_splits(), target.partial_pitch,
                       transposed_ ? d_out_ : outer_rows_, transposed_ ? rank_ : d_out_, 1.0f, target.weights, experts_,
                       target.out, 0});
    }
    if (call_.da.data != nullptr && (x_splits() > 1 || empty))
      add_job(reduce, {da_partials_, da_partial(), empty ? 0 : x_splits(), round_up(d_in_, 4), rank_, d_in_, 1.0f,
                       nullptr, 1, output(call_.da), 0});
    if (needs_d_router())
      add_job(reduce, {router_partials_, router_partial(), router_splits_, rank_, experts_, rank_, 1.0f, nullptr, 1,
                       output(call_.d_router), 0});
    return launch_reduce(reduce, stream());
  }

  const lily_backward &call_;
  const Device &device_;
  const lily_problem &problem_;
  const int tokens_, rank_, experts_, d_in_, d_out_;
  const bool has_token_weights_, routes_, token_routing_, from_logits_, transposed_, one_hot_;
  // The dy phase has two kinds of blocks, whose tiles cover equally many rows: those of C or B, and those of D or dB.
  const int shrink_rows_, outer_rows_, shrink_block_n_, tile_tokens_;
  bool reads_dy_once_ = false;
  const bool is_large_;
  const Walk dy_walk_, x_walk_;
  const LargeWalk dy_large_, x_large_;
  const int q_pitch_, c_pitch_, router_split_tokens_, router_splits_;
  Workspace workspace_;
  Scalar *c_ = nullptr, *d_hidden_ = nullptr;
  float *q_ = nullptr, *q_partials_ = nullptr, *token_d_weights_ = nullptr, *d_weights_ = nullptr, *kept_ = nullptr;
  float *db_partials_ = nullptr, *da_partials_ = nullptr, *router_partials_ = nullptr;
};

}  // namespace lily::cuda
