// The launches of backward for one engine, four at most:
//
//   combine | what needs dy | what needs dh | reduce            one pooling group
//   what needs dy, once | sum of q | what needs dh | reduce     one pooling group, small rank, dy larger than the cache
//   what needs dy | sums per sequence | what needs dh | reduce  every token its own mixture
//   combine, D | dh | what needs dh | reduce                    one pooling group, large rank
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
        mixes_(mixes_per_token(problem_, call.tokens.sequence_offsets != nullptr)),
        routes_(has_router(problem_)),
        token_routing_(problem_.routing == LILY_ROUTING_TOKEN),
        from_logits_(!token_routing_ && problem_.pool == LILY_POOL_LOGITS),
        transposed_(problem_.routing == LILY_ROUTING_NONE),
        one_hot_(mixes_ && call.deferred_db != nullptr && !deferred_is_weighted(problem_)),
        shrink_rows_(mixes_ ? experts_ * rank_ : rank_),
        outer_rows_(one_hot_ ? static_cast<int>(problem_.groups) * rank_ : shrink_rows_),
        shrink_rank_(fitting_rank(typename Table::Shrink{}, shrink_rows_)),
        tile_tokens_(shrink_tokens(Table::most_tokens(shrink_rank_), tokens_, device)),
        is_large_(!mixes_ && rank_ > kLargeRank),
        dy_walk_(find_dy_walk()),
        x_walk_(Table::walk(device, {rank_, tokens_, d_in_, experts_}, true, true)),
        dy_large_(Table::large_walk(device, {rank_, tokens_, d_out_, experts_}, false, true)),
        x_large_(Table::large_walk(device, {rank_, tokens_, d_in_, experts_}, true, true)),
        q_pitch_(round_up(rank_, 4)),
        c_pitch_(round_up(d_out_, Table::kVector)),
        router_tokens_(std::clamp(round_up(ceil_divide(tokens_, kRouterParts), kRouterTile), kLeastRouterTokens,
                                  kMostRouterTokens)),
        router_ranges_(ceil_divide(tokens_, router_tokens_)),
        workspace_(call.workspace) {
    if (is_large_)
      gradient_ = workspace_.take<Scalar>(problem_.tokens * gradient_pitch());
    else
      q_ = workspace_.take<float>(problem_.tokens * q_pitch_);
    if (reads_dy_once_) q_parts_ = workspace_.take<float>(dy_walk_.slices * problem_.tokens * q_pitch_);
    if (!mixes_ && !reads_dy_once_) c_ = workspace_.take<Scalar>(static_cast<int64_t>(rank_) * c_pitch_);
    if (mixes_ && routes_) products_ = workspace_.take<float>(problem_.tokens * experts_);
    if (routes_) losses_ = workspace_.take<float>((mixes_ ? problem_.groups : loss_parts()) * experts_);
    if (routes_) kept_ = workspace_.take<float>(problem_.groups);
    if (dy_splits() > 1) db_parts_ = workspace_.take<float>(dy_splits() * db_part());
    if (x_splits() > 1) da_parts_ = workspace_.take<float>(x_splits() * da_part());
    if (routes_) router_parts_ = workspace_.take<float>(static_cast<int64_t>(router_ranges_) * router_part());
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
  Operand hidden() const { return contiguous(call_.hidden, rank_, hidden_dtype(problem_)); }

  bool wants_db() const { return call_.db.data != nullptr || call_.deferred_db != nullptr; }
  bool wants_router() const { return routes_ && call_.d_router.data != nullptr; }
  bool wants_q() const { return call_.dx.data != nullptr || call_.da.data != nullptr; }
  // dw, or dp of token routing.
  bool wants_losses() const { return routes_ && (wants_q() || wants_router()); }
  // Kept tokens are counted where a mask or sequences make their number unknown to the host.
  bool counts_kept() const { return routes_ && (mixes_ || call_.tokens.mask != nullptr); }

  // Numbers of one part of a gradient, rows padded to whole float4.
  static int64_t part(int rows, int columns) { return static_cast<int64_t>(rows) * round_up(columns, 4); }
  int64_t db_part() const { return transposed_ ? part(d_out_, rank_) : part(outer_rows_, d_out_); }
  int64_t da_part() const { return part(rank_, d_in_); }
  int router_part() const { return round_up(experts_ * rank_, 4); }

  // The walk of what needs dy, by columns; also whether dy is read once. `parts` are bytes of parts of q and D, which
  // are written and read; dy counts where it comes from memory once more.
  //
  //   in one walk  parts of q and D    where the table has a tile: nothing is read twice
  //   split        parts of D          blocks of tokens and of columns share one launch, and the cache what they read
  //   twice        dy, parts of D      the same, with no more splits than the device needs
  //
  // Where dy fits into half of the second-level cache it comes from memory once in any case.
  Walk find_dy_walk() {
    const Walk twice = Table::walk(device_, {outer_rows_, tokens_, d_out_, experts_}, false, true, shrink_rank_);
    const int64_t row_bytes = d_out_ * static_cast<int64_t>(sizeof(Scalar)), dy_bytes = tokens_ * row_bytes;
    if (twice.slices == 0 || dy_bytes <= static_cast<int64_t>(device_.l2_bytes) / 2) return twice;
    const auto parts = [&](int64_t q_parts, int64_t d_parts) {
      return 8 * (rank_ * q_parts * tokens_ + (d_parts > 1 ? outer_rows_ * d_parts * d_out_ : 0));
    };
    const Walk split = split_for_cache(twice, static_cast<int64_t>(device_.l2_bytes) / kSplitsInCache / row_bytes);
    const Walk once = mixes_ ? Walk{} : find_once_walk();
    const int64_t twice_bytes = dy_bytes + parts(0, twice.splits);
    reads_dy_once_ = once.slices != 0 && parts(once.slices, once.splits) < twice_bytes;
    if (reads_dy_once_) return once;
    return parts(0, split.splits) < twice_bytes ? split : twice;
  }

  // Splits that are under way together, and as many again for all else that passes through the cache.
  static constexpr int kSplitsInCache = 8;

  // The same walk with splits of no more tokens than these, in whole tiles.
  Walk split_for_cache(Walk walk, int64_t tokens) const {
    const int64_t tiles = std::max<int64_t>(1, tokens / kMostStripTokens);
    walk.split_tokens = static_cast<int>(std::min<int64_t>(walk.split_tokens, tiles * kMostStripTokens));
    walk.splits = ceil_divide(tokens_, walk.split_tokens);
    return walk;
  }

  // No slices: the table has no tile.
  Walk find_once_walk() const {
    Walk once = {};
    for_each_row(typename Table::Once{}, [&](auto row) {
      using Tile = decltype(row);
      if (once.slices != 0 || Tile::kRank < rank_ || Tile::kBytes > device_.shared_bytes_per_block - kStaticBytes)
        return;
      const int slices = ceil_divide(d_out_, Tile::kColumns);
      const Split split = split_tokens(tokens_, Tile::kTokens, slices, wanted_blocks(device_));
      once = {Tile::kRank, Tile::kColumns, slices, split.count, 1, split.tokens, Tile::kBytes};
    });
    return once;
  }

  int dy_splits() const { return is_large_ ? dy_large_.splits : dy_walk_.splits; }
  int x_splits() const { return is_large_ ? x_large_.splits : x_walk_.splits; }
  // Blocks that hold some of D.
  int loss_parts() const { return is_large_ ? dy_large_.outer_blocks() : dy_walk_.grid(); }
  int gradient_pitch() const { return round_up(rank_, Table::kVector); }

  // Where D or dB goes.
  OuterTarget db_target() const {
    OuterTarget target = {};
    if (wants_db()) {
      target.out = db();
      target.parts = db_parts_;
    }
    target.part_stride = db_part();
    target.part_pitch = round_up(transposed_ ? rank_ : d_out_, 4);
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

  // dB_e = w_e D where there is one D.
  const float *db_weights() const {
    return mixes_ || transposed_ || call_.deferred_db != nullptr ? nullptr : call_.weights;
  }

  Experts experts() const { return {operand(call_.b), experts_, rank_, d_out_, transposed_}; }

  Weights weights() const {
    return {transposed_ ? WeightSource::kOne : WeightSource::kGiven, call_.weights, nullptr, 0, experts_};
  }

  ExpertLosses expert_losses() const {
    return {experts(), wants_losses() && !mixes_ ? losses_ : nullptr, loss_parts()};
  }

  float *kept_target() const { return wants_losses() && counts_kept() ? kept_ : nullptr; }

  bool combines() const { return !mixes_ && (wants_q() || kept_target() != nullptr); }

  Combine combine_call() const {
    Combine call = {};
    call.experts = experts();
    call.weights = weights();
    call.c = contiguous_output(wants_q() ? c_ : nullptr, c_pitch_, kDtype<Scalar>);
    call.mask = call_.tokens.mask;
    call.tokens = tokens_;
    call.kept = kept_target();
    return call;
  }

  dim3 combine_blocks() const {
    return wants_q() ? dim3(ceil_divide(d_out_, kCombineColumns), ceil_divide(rank_, kCombineRows)) : dim3(1);
  }

  lily_status run_combine() const {
    if (!combines()) return LILY_OK;
    return launch(combine<Scalar>, "launching the combine kernel", combine_blocks(), 0, stream(), combine_call());
  }

  lily_status run_dy() const {
    if (dy_walk_.slices == 0) return Table::no_tile();
    LILY_TRY(run_combine());
    BackwardDy call = {};
    if (wants_q() || (mixes_ && wants_losses())) {
      call.token_blocks = ceil_divide(dy_walk_.split_tokens, tile_tokens_);
      call.row_blocks = mixes_ ? 1 : ceil_divide(rank_, dy_walk_.rank);
    }
    const Operand right = mixes_ ? operand(call_.b) : contiguous(c_, c_pitch_, kDtype<Scalar>);
    call.shrink = {operand(call_.dy), right, tokens_, d_out_, shrink_rows_, tile_tokens_};
    call.pooled = !mixes_;
    call.scale = problem_.scaling;
    call.q = q_;
    call.q_pitch = q_pitch_;
    call.rank = rank_;
    call.hidden = hidden();
    call.mixture = {token_routing_ ? call_.probabilities : call_.weights, groups(), experts_, token_routing_};
    call.expert_products = wants_losses() && mixes_ ? products_ : nullptr;
    StripOperands &strip = call.strip;
    strip.left.kind = mixes_ ? LeftKind::kMixed : LeftKind::kHidden;
    strip.left.hidden = hidden();
    strip.left.rank = rank_;
    strip.left.columns = outer_rows_;
    strip.left.mixture = call.mixture;
    strip.left.one_hot = one_hot_;
    strip.left.router.experts = experts_;
    strip.x = operand(call_.dy);
    strip.tokens = tokens_;
    strip.columns = d_out_;
    strip.split_tokens = dy_walk_.split_tokens;
    call.slices = dy_walk_.slices;
    call.splits = dy_walk_.splits;
    call.target = db_target();
    call.losses = expert_losses();
    call.blocks = wants_db() || call.losses.parts != nullptr ? dy_walk_.blocks : 0;
    const int grid = (call.token_blocks * call.row_blocks + dy_walk_.slices * call.blocks) * dy_walk_.splits;
    if (grid == 0) return LILY_OK;
    LILY_TRY(Table::with_strip(dy_walk_, [&](auto strip_row) {
      return Table::with_shrink(dy_walk_.rank, tile_tokens_, [&](auto row) {
        using Strip = decltype(strip_row);
        using Shrink = decltype(row);
        if constexpr (Shrink::kRank == Strip::kRank) {
          return launch(backward_dy<Shrink, Strip>, "launching backward's first phase", dim3(grid),
                        std::max(Shrink::kBytes, dy_walk_.bytes), stream(), call);
        } else {
          return LILY_OK;  // with_shrink asks for one rank; the compiler does not know it
        }
      });
    }));
    if (!wants_losses() || !mixes_ || token_routing_) return LILY_OK;
    return launch_pool({PoolKind::kSum, groups(), experts_, products_, experts_, call_.tokens.mask, losses_, kept_},
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
    call.slices = dy_walk_.slices;
    call.scale = problem_.scaling;
    call.q_parts = q_parts_;
    call.q_pitch = q_pitch_;
    call.target = db_target();
    call.losses = expert_losses();
    call.mask = call_.tokens.mask;
    call.kept = kept_target();
    lily_status status = LILY_OK;
    with_row(
        typename Table::Once{}, [&](auto row) { return row.kRank == dy_walk_.rank; },
        [&](auto row) {
          status = launch(backward_dy_once<decltype(row)>, "launching backward's first phase", dim3(dy_walk_.grid()),
                          dy_walk_.bytes, stream(), call);
        });
    LILY_TRY(status);
    if (!wants_q()) return LILY_OK;
    Reduce sum = {};
    add_job(sum, {q_parts_, problem_.tokens * q_pitch_, dy_walk_.slices, q_pitch_, tokens_, rank_, problem_.scaling,
                  nullptr, 1, contiguous_output(q_, q_pitch_, LILY_FLOAT32), 0});
    return launch_reduce(sum, stream());
  }

  RouterGradient router_gradient() const {
    RouterGradient router = {};
    router.experts = experts_;
    router.groups = groups();
    if (!routes_) return router;
    router.loss = from_logits_ ? RouterLoss::kLogits : RouterLoss::kProbabilities;
    router.router = operand(call_.router);
    router.probabilities = call_.probabilities;
    router.weights = call_.weights;
    router.expert_loss = token_routing_ ? products_ : losses_;
    router.per_token = token_routing_;
    router.parts = mixes_ ? 0 : loss_parts();
    const bool averages = !token_routing_ && !from_logits_;
    router.kept = averages && counts_kept() ? kept_ : nullptr;
    router.kept_constant = averages ? static_cast<float>(tokens_) : 1.0f;
    router.mask = call_.tokens.mask;
    return router;
  }

  // dh, as it is formed.
  Left gradient_left() const {
    Left left = {};
    left.kind = LeftKind::kGradient;
    left.hidden = hidden();
    left.rank = left.columns = rank_;
    left.q = q_;
    left.q_pitch = q_pitch_;
    left.relu = problem_.activation == LILY_ACTIVATION_RELU;
    left.router = router_gradient();
    return left;
  }

  OuterTarget da_target() const {
    OuterTarget target = {};
    target.out = output(call_.da);
    target.parts = call_.da.data != nullptr ? da_parts_ : nullptr;
    target.part_stride = da_part();
    target.part_pitch = round_up(d_in_, 4);
    target.rows = rank_;
    target.columns = d_in_;
    target.scale = 1.0f;
    return target;
  }

  RouterBlocks router_blocks() const {
    RouterBlocks blocks = {};
    blocks.router = router_gradient();
    if (!wants_router()) return blocks;
    blocks.ranges = router_ranges_;
    blocks.range_tokens = router_tokens_;
    blocks.chunks = ceil_divide(experts_ * rank_, kRouterElements);
    blocks.tokens = tokens_;
    blocks.rank = rank_;
    blocks.hidden = hidden();
    blocks.parts = router_parts_;
    return blocks;
  }

  lily_status run_x() const {
    if (x_walk_.slices == 0) return Table::no_tile();
    BackwardX call = {};
    StripOperands &strip = call.strip;
    strip.left = gradient_left();
    strip.w = operand(call_.a);
    strip.out = output(call_.dx);
    strip.out_scale = 1.0f;
    strip.x = operand(call_.x);
    strip.tokens = tokens_;
    strip.columns = d_in_;
    strip.split_tokens = x_walk_.split_tokens;
    call.slices = x_walk_.slices;
    call.splits = x_walk_.splits;
    const int strips = x_walk_.slices * x_walk_.splits;
    const bool wants_dx = call_.dx.data != nullptr, wants_da = call_.da.data != nullptr;
    if (x_walk_.blocks == 1) {
      call.expand_blocks = wants_q() ? strips : 0;
    } else {
      call.expand_blocks = wants_dx ? strips : 0;
      call.outer_blocks = wants_da ? x_walk_.grid() : 0;
    }
    call.target = da_target();
    call.router = router_blocks();
    const int grid = call.expand_blocks + call.outer_blocks + call.router.ranges * call.router.chunks;
    if (grid == 0) return LILY_OK;
    const int router_bytes = left_scratch(kRouterTile, experts_) * static_cast<int>(sizeof(float));
    return Table::with_strip(x_walk_, [&](auto row) {
      return launch(backward_x<decltype(row)>, "launching backward's second phase", dim3(grid),
                    std::max(x_walk_.bytes, router_bytes), stream(), call);
    });
  }

  // ---- Large ranks ----

  Output gradient() const { return contiguous_output(gradient_, gradient_pitch(), kDtype<Scalar>); }

  // left^T x, and left w, over the columns of x.
  LargeStrip large_call(const Operand &left, const Operand &x, int columns, const LargeWalk &walk) const {
    LargeStrip call = {};
    call.left.kind = LeftKind::kHidden;
    call.left.hidden = left;
    call.left.rank = call.left.columns = rank_;
    call.tokens = tokens_;
    call.columns = columns;
    call.slices = walk.slices;
    call.splits = walk.splits;
    call.split_tokens = walk.split_tokens;
    call.x = x;
    return call;
  }

  lily_status run_dy_large() const {
    LargeStrip call = large_call(hidden(), operand(call_.dy), d_out_, dy_large_);
    call.target = db_target();
    call.losses = expert_losses();
    call.outer_blocks = wants_db() || call.losses.parts != nullptr ? dy_large_.outer_blocks() : 0;
    if (combines()) {
      call.combine = combine_call();
      const dim3 blocks = combine_blocks();
      call.combine_slices = static_cast<int>(blocks.x);
      call.combine_blocks = static_cast<int>(blocks.x * blocks.y);
    }
    LILY_TRY(Table::launch_large_strip(call, dy_large_, stream()));
    if (!wants_q()) return LILY_OK;
    LargeShrink shrink = {};
    shrink.operands = {operand(call_.dy), contiguous(c_, c_pitch_, kDtype<Scalar>), tokens_, d_out_, rank_, 0};
    shrink.gradient = gradient_left();
    shrink.scale = problem_.scaling;
    shrink.out = gradient();
    return Table::launch_large_shrink(shrink, device_, stream());
  }

  lily_status run_x_large() const {
    LargeStrip call = large_call(gradient().operand(), operand(call_.x), d_in_, x_large_);
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

  // What lies in parts, and zeros where there are no tokens.
  lily_status run_reduce() const {
    Reduce reduce = {};
    const bool empty = tokens_ == 0;
    if (wants_db() && (dy_splits() > 1 || empty)) {
      const OuterTarget target = db_target();
      add_job(reduce, {db_parts_, target.part_stride, empty ? 0 : dy_splits(), target.part_pitch,
                       transposed_ ? d_out_ : outer_rows_, transposed_ ? rank_ : d_out_, 1.0f, target.weights, experts_,
                       target.out, 0});
    }
    if (call_.da.data != nullptr && (x_splits() > 1 || empty))
      add_job(reduce, {da_parts_, da_part(), empty ? 0 : x_splits(), round_up(d_in_, 4), rank_, d_in_, 1.0f, nullptr, 1,
                       output(call_.da), 0});
    if (wants_router())
      add_job(reduce, {router_parts_, router_part(), router_ranges_, rank_, experts_, rank_, 1.0f, nullptr, 1,
                       output(call_.d_router), 0});
    return launch_reduce(reduce, stream());
  }

  const lily_backward &call_;
  const Device &device_;
  const lily_problem &problem_;
  const int tokens_, rank_, experts_, d_in_, d_out_;
  const bool mixes_, routes_, token_routing_, from_logits_, transposed_, one_hot_;
  // Phase 1 has blocks of two kinds with tiles of one rank: those of C or B, and those of D or dB.
  const int shrink_rows_, outer_rows_, shrink_rank_, tile_tokens_;
  bool reads_dy_once_ = false;
  const bool is_large_;
  const Walk dy_walk_, x_walk_;
  const LargeWalk dy_large_, x_large_;
  const int q_pitch_, c_pitch_, router_tokens_, router_ranges_;
  Workspace workspace_;
  Scalar *c_ = nullptr, *gradient_ = nullptr;
  float *q_ = nullptr, *q_parts_ = nullptr, *products_ = nullptr, *losses_ = nullptr, *kept_ = nullptr;
  float *db_parts_ = nullptr, *da_parts_ = nullptr, *router_parts_ = nullptr;
};

}  // namespace lily::cuda
