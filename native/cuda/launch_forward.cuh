// The launches of forward for one engine. Symbols as in docs/math.md.
//
// Normally two: shrink and expand. A third runs between them to pool sequences, to route if the rank is larger than one
// tile, or to combine C if the rank is large and many tokens share C. Token routing of many tokens takes one launch
// (forward_token.cuh); few tokens with a rank that is not large always take two (forward_decode.cuh).
#pragma once

#include "cuda/launch.cuh"

namespace lily::cuda {

template <typename Engine>
class Forward {
 public:
  using Table = Rows<Engine>;
  using Scalar = typename Engine::Scalar;

  Forward(const lily_forward &call, const Device &device)
      : call_(call),
        device_(device),
        problem_(call.problem),
        tokens_(static_cast<int>(problem_.tokens)),
        rank_(static_cast<int>(problem_.rank)),
        experts_(static_cast<int>(problem_.experts)),
        d_out_(static_cast<int>(problem_.d_out)),
        has_token_weights_(has_token_weights(problem_, call.tokens.sequence_offsets != nullptr)),
        routes_(has_router(problem_)),
        pools_logits_(problem_.routing != LILY_ROUTING_TOKEN && problem_.pool == LILY_POOL_LOGITS),
        shrink_block_n_(fitting_size(typename Table::Shrink{}, rank_, [](auto row) { return row.kBlockN; })),
        tile_tokens_(shrink_tokens(Table::most_tokens(shrink_block_n_), tokens_, device)),
        tiles_(ceil_divide(tokens_, tile_tokens_)),
        hidden_pitch_(round_up(rank_, Table::kVector)),
        decodes_(can_decode()),
        workspace_(call.workspace) {
    if (decodes_) {
      hidden_partials_ = workspace_.take<float>(depth_splits() * problem_.tokens * round_up(rank_, 4));
      return;
    }
    own_hidden_ = workspace_.take<Scalar>(problem_.tokens * hidden_pitch_);
    if (routes_) own_values_ = workspace_.take<float>(problem_.tokens * experts_);
    if (routes_ && !has_token_weights_)
      partials_ = workspace_.take<float>(static_cast<int64_t>(tiles_) * (experts_ + 1));
    if (writes_c()) c_ = workspace_.take<Scalar>(static_cast<int64_t>(rank_) * c_pitch());
    if (has_token_weights_) own_weights_ = workspace_.take<float>(problem_.groups * experts_);
  }

  size_t workspace_bytes() const { return workspace_.bytes(); }

  lily_status run() const {
    if (tokens_ == 0) return write_empty_weights();
    if (decodes_) return run_decode();
    // h for backward and for the next phase: one matrix, if its type and alignment suit both.
    const Output saved = contiguous_output(call_.hidden, rank_, hidden_dtype(problem_));
    const bool shares = saved.data != nullptr && saved.dtype == kDtype<Scalar> && saved.aligned16;
    const Output hidden = shares ? saved : contiguous_output(own_hidden_, hidden_pitch_, kDtype<Scalar>);
    const Route route = this->route();
    if (uses_token_kernel()) return run_token(saved, route);
    LILY_TRY(shrink(saved, shares ? Output{} : hidden, route));
    float *group_weights = call_.weights;
    if (problem_.routing == LILY_ROUTING_SEQUENCE) {
      if (group_weights == nullptr) group_weights = own_weights_;
      LILY_TRY(launch_pool({pools_logits_ ? PoolKind::kSoftmax : PoolKind::kMean, groups(), experts_, route.values,
                            experts_, call_.tokens.mask, group_weights, nullptr},
                           stream()));
    }
    return is_large() ? expand_large(hidden, route.values, group_weights) : expand(hidden, route.values, group_weights);
  }

 private:
  cudaStream_t stream() const { return reinterpret_cast<cudaStream_t>(call_.stream); }
  Groups groups() const { return {call_.tokens.sequence_offsets, static_cast<int>(problem_.groups), tokens_}; }

  // Without tokens only the weights have values: no group has a kept token.
  lily_status write_empty_weights() const {
    if (call_.weights == nullptr || !has_weights(problem_) || problem_.routing == LILY_ROUTING_FIXED) return LILY_OK;
    const float value = problem_.routing == LILY_ROUTING_UNIFORM ? 1.0f / static_cast<float>(experts_) : 0.0f;
    return launch_write_weights(call_.weights, problem_.groups * experts_, value, stream());
  }

  Route route() const {
    Route route = {};
    if (!routes_) return route;
    route.router = operand(call_.router);
    route.experts = experts_;
    route.rank = rank_;
    route.pools_logits = pools_logits_;
    route.values = pools_logits_ || call_.probabilities == nullptr ? own_values_ : call_.probabilities;
    if (!has_token_weights_ && route.values == own_values_) route.values = nullptr;  // no kernel reads them
    route.partials = partials_;
    route.mask = call_.tokens.mask;
    return route;
  }

  ForwardShrink shrink_call(const Output &saved, const Output &expand) const {
    ForwardShrink call = {};
    call.operands = {operand(call_.x), operand(call_.a), tokens_, static_cast<int>(problem_.d_in), rank_, tile_tokens_};
    call.relu = problem_.activation == LILY_ACTIVATION_RELU;
    call.hidden = saved;
    call.expand = expand;
    return call;
  }

  template <typename Visit>
  bool with_token_row(const Visit &visit) const {
    return with_row(
        typename Table::Token{},
        [&](auto row) {
          using Tile = decltype(row);
          return Tile::Shrink::kBlockN == shrink_block_n_ && tile_tokens_ == Tile::kBlockM &&
                 experts_ * rank_ <= Tile::kBlockK &&
                 Tile::bytes(experts_, rank_) <= device_.shared_bytes_per_block - kStaticBytes;
        },
        visit);
  }

  bool uses_token_kernel() const {
    return problem_.routing == LILY_ROUTING_TOKEN && with_token_row([](auto) {});
  }

  lily_status run_token(const Output &saved, const Route &route) const {
    ForwardToken call = {};
    call.shrink = shrink_call(saved, {});
    call.shrink.route = route;
    if (call_.probabilities == nullptr) call.shrink.route.values = nullptr;
    call.b = operand(call_.b);
    call.y = output(call_.y);
    call.scale = problem_.scaling;
    call.columns = d_out_;
    lily_status status = LILY_OK;
    with_token_row([&](auto row) {
      using Tile = decltype(row);
      status = launch(forward_token<Tile>, "launching the forward_token kernel", dim3(tiles_),
                      Tile::bytes(experts_, rank_), stream(), call);
    });
    return status;
  }

  // ---- Few tokens ----

  int depth_splits() const { return ceil_divide(problem_.d_in, kSplitDepth<Scalar>); }

  template <typename Visit>
  bool with_decode_row(const Visit &visit) const {
    return with_row(
        typename Table::Decode{},
        [&](auto row) {
          using Tile = decltype(row);
          return tokens_ <= Tile::kBlockM && Tile::bytes(rank_, experts_, static_cast<int>(problem_.groups)) <=
                                                 device_.shared_bytes_per_block - kStaticBytes;
        },
        visit);
  }

  bool can_decode() const {
    constexpr int kMostSplits = 65535;  // the splits are blockIdx.z of the first launch
    return tokens_ > 0 && rank_ <= kDecodeRank && problem_.groups <= kDecodeGroups && depth_splits() <= kMostSplits &&
           with_decode_row([](auto) {});
  }

  lily_status run_decode() const {
    const Output saved = contiguous_output(call_.hidden, rank_, hidden_dtype(problem_));
    ForwardShrink shrink = shrink_call({}, {});
    shrink.partials = hidden_partials_;
    shrink.partial_pitch = round_up(rank_, 4);
    // The tile of the smallest rank gives the most blocks; results do not depend on the tile's rank.
    constexpr int kTile = 16;
    shrink.operands.tile_tokens = kTile;
    LILY_TRY(Table::with_shrink(kTile, kTile, [&](auto row) {
      using Tile = decltype(row);
      const dim3 blocks(ceil_divide(tokens_, kTile), ceil_divide(rank_, kTile), depth_splits());
      return launch(forward_shrink<Tile>, "launching the forward_shrink kernel", blocks, Tile::kBytes, stream(),
                    shrink);
    }));
    ForwardDecode call = {};
    call.partials = hidden_partials_;
    call.splits = depth_splits();
    call.partial_pitch = shrink.partial_pitch;
    call.tokens = tokens_;
    call.columns = d_out_;
    call.relu = shrink.relu;
    call.hidden = saved;
    call.route = route();
    call.route.values = pools_logits_ ? nullptr : call_.probabilities;
    call.pooled = !has_token_weights_;
    call.per_token = problem_.routing == LILY_ROUTING_TOKEN;
    call.pool = pools_logits_ ? PoolKind::kSoftmax : PoolKind::kMean;
    call.groups = groups();
    if (!has_token_weights_) call.weights = weights();
    call.given = call_.weights;
    call.weights_out = weights_out();
    call.experts = experts();
    call.y = output(call_.y);
    call.scale = problem_.scaling;
    lily_status status = LILY_OK;
    with_decode_row([&](auto row) {
      using Tile = decltype(row);
      status =
          launch(forward_decode<Tile>, "launching the forward_decode kernel", dim3(ceil_divide(d_out_, Tile::kBlockN)),
                 Tile::bytes(rank_, experts_, static_cast<int>(problem_.groups)), stream(), call);
    });
    return status;
  }

  // ---- Large ranks ----

  bool is_large() const { return rank_ > kLargeRank; }
  int c_pitch() const { return round_up(d_out_, Table::kVector); }
  // Otherwise each tile of tokens combines all of C. From about 512 tokens on, one more launch and C in memory cost
  // less.
  bool writes_c() const { return is_large() && !has_token_weights_ && tokens_ > 512; }

  lily_status shrink_large(const Output &saved, const Output &expand) const {
    LargeShrink call = {};
    call.operands = {operand(call_.x), operand(call_.a), tokens_, static_cast<int>(problem_.d_in), rank_, 0};
    call.relu = problem_.activation == LILY_ACTIVATION_RELU;
    call.saved = saved;
    call.out = expand;
    return Table::launch_large_shrink(call, device_, stream());
  }

  lily_status expand_large(const Output &hidden, const float *values, const float *group_weights) const {
    LargeStrip call = {};
    call.lhs = lhs(hidden, values, group_weights);
    call.tokens = tokens_;
    call.columns = d_out_;
    call.out = output(call_.y);
    call.scale = problem_.scaling;
    if (has_token_weights_) {
      call.w = operand(call_.b);
    } else {
      call.experts = experts();
      call.weights = weights();
      call.weights_out = weights_out();
    }
    if (writes_c()) {
      Combine combined = {};
      combined.experts = call.experts;
      combined.weights = call.weights;
      combined.c = contiguous_output(c_, c_pitch(), kDtype<Scalar>);
      const dim3 blocks(ceil_divide(d_out_, kCombineColumns), ceil_divide(rank_, kCombineRows));
      LILY_TRY(launch(combine<Scalar>, "launching the combine kernel", blocks, 0, stream(), combined));
      call.w = combined.c.operand();
    }
    const LargeWalk walk = Table::large_walk(device_, {call.lhs.columns, tokens_, d_out_, experts_}, true, false);
    call.expand_blocks = walk.expand_blocks();
    return Table::launch_large_strip(call, walk, stream());
  }

  // ---- All others ----

  Experts experts() const { return {operand(call_.b), experts_, rank_, d_out_, problem_.routing == LILY_ROUTING_NONE}; }

  float *weights_out() const { return problem_.routing == LILY_ROUTING_FIXED ? nullptr : call_.weights; }

  // The left operand of expand.
  LeftOperand lhs(const Output &hidden, const float *values, const float *group_weights) const {
    LeftOperand lhs = {};
    lhs.kind = has_token_weights_ ? LeftOperandKind::kU : LeftOperandKind::kHidden;
    lhs.hidden = hidden.operand();
    lhs.rank = rank_;
    lhs.columns = has_token_weights_ ? experts_ * rank_ : rank_;
    lhs.router.experts = experts_;
    if (has_token_weights_) {
      const bool per_token = problem_.routing == LILY_ROUTING_TOKEN;
      lhs.token_weights = {per_token ? values : group_weights, groups(), experts_, per_token};
    }
    return lhs;
  }

  // Source of the weights of the combined projector.
  Weights weights() const {
    Weights weights = {WeightSource::kOne, call_.weights, partials_, tiles_, experts_};
    if (routes_) weights.source = pools_logits_ ? WeightSource::kSoftmax : WeightSource::kMean;
    if (problem_.routing == LILY_ROUTING_UNIFORM) weights.source = WeightSource::kUniform;
    if (problem_.routing == LILY_ROUTING_FIXED) weights.source = WeightSource::kGiven;
    return weights;
  }

  lily_status shrink(const Output &saved, const Output &expand, const Route &route) const {
    const int row_tiles = ceil_divide(rank_, shrink_block_n_);
    ForwardShrink call = shrink_call(saved, expand);
    if (row_tiles == 1) call.route = route;
    LILY_TRY(
        is_large() ? shrink_large(saved, expand) : Table::with_shrink(shrink_block_n_, tile_tokens_, [&](auto row) {
          using Tile = decltype(row);
          const int routing = Tile::kProduct * 4 + route_bytes(Tile::kBlockM, experts_, rank_);
          const int bytes = call.route.router.data == nullptr ? Tile::kBytes : std::max(Tile::kBytes, routing);
          return launch(forward_shrink<Tile>, "launching the forward_shrink kernel", dim3(tiles_, row_tiles), bytes,
                        stream(), call);
        }));
    if (!routes_ || row_tiles == 1) return LILY_OK;
    const Operand hidden = expand.data != nullptr ? expand.operand() : saved.operand();
    return launch_route({hidden, tokens_, tile_tokens_, route}, tiles_, stream());
  }

  lily_status expand(const Output &hidden, const float *values, const float *group_weights) const {
    ForwardExpand call = {};
    StripOperands &strip = call.strip;
    strip.lhs = lhs(hidden, values, group_weights);
    if (has_token_weights_) {
      strip.w = operand(call_.b);
    } else {
      call.pooled = 1;
      call.experts = experts();
      call.weights = weights();
      call.weights_out = weights_out();
    }
    strip.out = output(call_.y);
    strip.out_scale = problem_.scaling;
    strip.tokens = tokens_;
    strip.columns = d_out_;
    const Walk walk = Table::walk(device_, {strip.lhs.columns, tokens_, d_out_, experts_}, true, false);
    strip.split_tokens = walk.split_tokens;
    call.column_tiles = walk.column_tiles;
    return Table::with_strip(walk, [&](auto row) {
      return launch(forward_expand<decltype(row)>, "launching the forward_expand kernel",
                    dim3(walk.column_tiles * walk.splits), walk.bytes, stream(), call);
    });
  }

  const lily_forward &call_;
  const Device &device_;
  const lily_problem &problem_;
  const int tokens_, rank_, experts_, d_out_;
  const bool has_token_weights_, routes_, pools_logits_;
  const int shrink_block_n_, tile_tokens_, tiles_, hidden_pitch_;
  const bool decodes_;
  Workspace workspace_;
  Scalar *own_hidden_ = nullptr;
  Scalar *c_ = nullptr;
  float *hidden_partials_ = nullptr;
  float *own_values_ = nullptr, *partials_ = nullptr, *own_weights_ = nullptr;
};

}  // namespace lily::cuda
