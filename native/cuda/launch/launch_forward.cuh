// Executes the plan of forward with one engine. Symbols as in docs/math.md.
#pragma once

#include "core/problem.h"
#include "cuda/kernels/forward_decode.cuh"
#include "cuda/kernels/forward_expand.cuh"
#include "cuda/kernels/forward_mix.cuh"
#include "cuda/launch/launch_large.cuh"

namespace lily::cuda {

template <typename Engine>
class Forward {
 public:
  using Scalar = typename Engine::Scalar;

  Forward(const lily_forward &call, const ForwardPlan &plan, int all_rows)
      : call_(call),
        plan_(plan),
        problem_(call.problem),
        tokens_(static_cast<int>(problem_.tokens)),
        rank_(static_cast<int>(problem_.rank)),
        experts_(static_cast<int>(problem_.experts)),
        d_out_(static_cast<int>(problem_.d_out)),
        rows_{call.tokens.rows, all_rows},
        routes_(has_router(problem_)) {}

  // Executes a step of some calls of a list, all with the same tile.
  static lily_status run(const ForwardCalls &list, Members members, Launcher &launcher) {
    using Rows = Tiles<Engine>;
    const Step step = members[0].launch->step;
    const Tile &tile = members[0].launch->tile;
    const auto of = [&](const Member &member) {
      return Forward(list.calls[member.call], list.plans[member.call], list.all_rows);
    };
    // Large ranks: one call after the other.
    const auto launch_each = [&](const auto &launch_one) {
      for (const Member &member : members) LILY_TRY(launch_one(of(member), *member.launch));
      return LILY_OK;
    };
    switch (step) {
      case Step::kCast:
        return launcher.launch(kCastKernel, members, [&](const Member &member) { return of(member).casts(); });
      case Step::kShrink:
      case Step::kSplitShrink:
        return with_tile<typename Rows::Shrink>(tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(ListKernel<ForwardShrink>{forward_shrink<Row>, forward_shrink_list<Row>,
                                                           "launching the forward_shrink kernel"},
                                 members, [&](const Member &member) {
                                   return step == Step::kShrink ? of(member).shrink() : of(member).partial_shrink();
                                 });
        });
      case Step::kLargeShrink:
        return launch_each([&](const Forward &call, const Launch &planned) {
          return launch_product<Engine>(planned, call.plan_.large_hidden, false, call.large_hidden(), launcher);
        });
      case Step::kRoute:
        return launcher.launch(kRouteKernel, members, [&](const Member &member) { return of(member).route_call(); });
      case Step::kPoolWeights:
        return launcher.launch(kPoolKernel, members, [&](const Member &member) { return of(member).pool_weights(); });
      case Step::kScale:
        return launcher.launch(kFormUKernel, members, [&](const Member &member) { return of(member).scale_call(); });
      case Step::kFormU:
        return launcher.launch(kFormUKernel, members, [&](const Member &member) { return of(member).form_u_call(); });
      case Step::kCombine:
        return launcher.launch(kCastKernel, members, [&](const Member &member) { return of(member).combining(); });
      case Step::kExpand:
        return with_tile<typename Rows::Expand>(tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(ListKernel<ForwardExpand>{forward_expand<Row>, forward_expand_list<Row>,
                                                           "launching the forward_expand kernel"},
                                 members, [&](const Member &member) { return of(member).expand(); });
        });
      case Step::kMix:
        return with_tile<typename Rows::Mix>(tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(
              ListKernel<ForwardMix>{forward_mix<Row>, forward_mix_list<Row>, "launching the forward_mix kernel"},
              members, [&](const Member &member) { return of(member).template mix<Row>(); });
        });
      case Step::kLargeExpand:
        return launch_each([&](const Forward &call, const Launch &planned) {
          return launch_product<Engine>(planned, call.plan_.large_y, !call.is_lora(), call.large_y(), launcher);
        });
      case Step::kDecode:
        return with_tile<typename Rows::Decode>(tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(ListKernel<ForwardDecode>{forward_decode<Row>, forward_decode_list<Row>,
                                                           "launching the forward_decode kernel"},
                                 members, [&](const Member &member) { return of(member).template decode<Row>(); });
        });
      default: return LILY_OK;  // steps of backward
    }
  }

 private:
  template <typename T>
  T *in_workspace(Offset offset) const {
    return at<T>(call_.workspace, offset);
  }
  Groups groups() const { return {call_.tokens.sequence_offsets, static_cast<int>(problem_.groups), tokens_}; }
  bool is_lora() const { return problem_.routing == LILY_ROUTING_NONE; }
  bool is_per_token() const { return problem_.routing == LILY_ROUTING_TOKEN; }

  Cast casts() const {
    Cast cast = {};
    add_cast<Scalar>(cast, call_.workspace, plan_.x_cast, operand(call_.x), rows_);
    add_cast<Scalar>(cast, call_.workspace, plan_.a_cast, operand(call_.a));
    add_cast<Scalar>(cast, call_.workspace, plan_.b_cast, operand(call_.b));
    return cast;
  }
  // As operands of products.
  Operand x() const { return cast_operand<Scalar>(call_.workspace, plan_.x_cast, operand(call_.x)); }
  Operand a() const { return cast_operand<Scalar>(call_.workspace, plan_.a_cast, operand(call_.a)); }
  Operand b() const { return cast_operand<Scalar>(call_.workspace, plan_.b_cast, operand(call_.b)); }

  // h for backward, and h for the next phase: one matrix, if its type and alignment suit both.
  Output saved() const { return contiguous_output(call_.hidden, rank_, hidden_dtype(problem_)); }
  Output hidden() const {
    if (plan_.shares_hidden) return saved();
    return contiguous_output(in_workspace<Scalar>(plan_.hidden), plan_.hidden_pitch, kDtype<Scalar>);
  }

  // What the second phase multiplies.
  Operand left_hidden() const { return plan_.scaled == kAbsent ? hidden().operand() : scaled().operand(); }
  Output scaled() const {
    return contiguous_output(in_workspace<Scalar>(plan_.scaled), plan_.hidden_pitch, kDtype<Scalar>);
  }
  FormU scale_call() const {
    return {hidden().operand(), {call_.tokens.scale, groups(), 1, 1}, scaled(), tokens_, rank_};
  }
  FormU form_u_call() const { return {left_hidden(), token_weights(), u(), tokens_, rank_}; }

  Output y() const { return output<Scalar>(call_.y, d_out_, rows_); }

  Route route() const {
    Route route = {};
    if (!routes_) return route;
    float *own_values = in_workspace<float>(plan_.values);
    route.router = operand(call_.router);
    route.experts = experts_;
    route.rank = rank_;
    route.pools_logits = plan_.pools_logits;
    route.values = plan_.pools_logits || call_.probabilities == nullptr ? own_values : call_.probabilities;
    if (!plan_.has_token_weights && route.values == own_values) route.values = nullptr;  // no kernel reads them
    route.partials = in_workspace<float>(plan_.pooling_partials);
    route.mask = call_.tokens.mask;
    return route;
  }

  PoolKind pool_kind() const { return plan_.pools_logits ? PoolKind::kSoftmax : PoolKind::kMean; }

  Pool pool_weights() const {
    return {pool_kind(), groups(), {route().values, experts_, experts_, call_.tokens.mask, 1}, group_weights()};
  }

  // The weights of each group. In and out: given with `fixed` routing.
  float *group_weights() const {
    const bool pools = problem_.routing == LILY_ROUTING_SEQUENCE;
    return pools && call_.weights == nullptr ? in_workspace<float>(plan_.weights) : call_.weights;
  }

  ShrinkOperands shrink_operands(int tile_tokens) const {
    return {x(), a(), tokens_, static_cast<int>(problem_.d_in), rank_, tile_tokens};
  }

  float factor() const { return dropout_factor(problem_.dropout); }
  int is_relu() const { return problem_.activation == LILY_ACTIVATION_RELU; }

  ForwardShrink shrink() const {
    ForwardShrink call = {};
    call.operands = shrink_operands(plan_.tile_tokens);
    call.dropout = dropout_of(call_);
    call.factor = factor();
    call.relu = is_relu();
    call.hidden = saved();
    if (!plan_.shares_hidden) call.expand = hidden();
    if (!plan_.routes_apart) call.route = route();
    return call;
  }

  ForwardShrink partial_shrink() const {
    ForwardShrink call = {};
    call.operands = shrink_operands(plan_.tile_tokens);
    call.dropout = dropout_of(call_);
    call.partials = in_workspace<float>(plan_.hidden_partials);
    call.partial_pitch = plan_.partial_pitch;
    return call;
  }

  HiddenPartials hidden_partials() const {
    const float *partials = in_workspace<float>(plan_.hidden_partials);
    return {partials, plan_.depth_splits, plan_.partial_pitch, tokens_, rank_, factor(), is_relu()};
  }

  ForwardRoute route_call() const {
    ForwardRoute call = {};
    call.tokens = tokens_;
    call.tile_tokens = plan_.route_tokens;
    call.route = route();
    if (plan_.depth_splits == 0) {
      call.hidden = hidden().operand();
      return call;
    }
    call.partials = hidden_partials();
    call.saved = saved();
    if (!plan_.shares_hidden) call.expand = hidden();
    return call;
  }

  // ---- Few tokens ----

  template <typename Tile>
  ForwardDecode decode() const {
    ForwardDecode call = {};
    call.partials = hidden_partials();
    call.tokens = tokens_;
    call.columns = d_out_;
    call.hidden = saved();
    call.route = route();
    call.route.values = plan_.pools_logits ? nullptr : call_.probabilities;
    call.pooled = !plan_.has_token_weights;
    call.per_token = is_per_token();
    call.pool = pool_kind();
    call.groups = groups();
    if (!plan_.has_token_weights) call.weights = weights();
    call.given = call_.weights;
    call.weights_out = weights_out();
    call.experts = experts();
    call.stage_rows = plan_.decode_stages.rows();
    call.stages = plan_.decode_stages.count();
    call.operand_elements =
        Tile::operand_elements(rank_, call.pooled && !call.experts.transposed, dtype_bytes(problem_.parameter_dtype));
    call.y = y();
    call.scale = problem_.scaling;
    call.row_scale = call_.tokens.scale;
    return call;
  }

  // ---- The second phase ----

  Experts experts() const { return {operand(call_.b), experts_, rank_, d_out_, is_lora()}; }

  float *weights_out() const { return problem_.routing == LILY_ROUTING_FIXED ? nullptr : call_.weights; }

  // Source of the weights of the combined projector.
  Weights weights() const {
    switch (problem_.routing) {
      case LILY_ROUTING_NONE: return {WeightSource::kOne, experts_, nullptr, 0, 0};
      case LILY_ROUTING_UNIFORM: return {WeightSource::kUniform, experts_, nullptr, 0, 0};
      case LILY_ROUTING_FIXED: return {WeightSource::kGiven, experts_, call_.weights, 1, LILY_FLOAT32};
      case LILY_ROUTING_LEARNED:
        return {WeightSource::kLogits, experts_, call_.router.data, call_.router.pitch, call_.router.dtype};
      default:
        return {plan_.pools_logits ? WeightSource::kSoftmax : WeightSource::kMean, experts_,
                in_workspace<float>(plan_.pooling_partials), plan_.token_tiles, LILY_FLOAT32};
    }
  }

  TokenWeights token_weights() const {
    return {is_per_token() ? route().values : group_weights(), groups(), experts_, is_per_token()};
  }

  ForwardExpand expand() const {
    ForwardExpand call = {};
    StripOperands &strip = call.strip;
    strip.lhs.hidden = left_hidden();
    strip.lhs.rank = strip.lhs.columns = rank_;
    strip.out = y();
    strip.out_scale = problem_.scaling;
    strip.tokens = tokens_;
    strip.columns = d_out_;
    strip.split_tokens = plan_.split_tokens;
    call.experts = experts();
    call.weights = weights();
    call.weights_out = weights_out();
    call.column_tiles = plan_.column_tiles;
    return call;
  }

  template <typename Tile>
  ForwardMix mix() const {
    ForwardMix call = {};
    call.hidden = left_hidden();
    call.weights = token_weights();
    call.b = b();
    call.y = y();
    call.scale = problem_.scaling;
    call.tokens = tokens_;
    call.columns = d_out_;
    call.rank = rank_;
    call.experts = experts_;
    call.hidden_pitch = Tile::hidden_pitch(rank_);
    call.k_tiles = Tile::k_tiles(experts_ * rank_);
    call.stages = mix_stages(call.k_tiles);
    call.split_tokens = plan_.split_tokens;
    call.column_tiles = plan_.column_tiles;
    call.b_stays = plan_.b_stays;
    return call;
  }

  // ---- Large ranks ----

  LargeProduct large_hidden() const {
    LargeProduct call = {};
    call.x = x();
    call.weight = a();
    call.tokens = tokens_;
    call.depth = static_cast<int>(problem_.d_in);
    call.columns = rank_;
    call.result = Result::kHidden;
    call.scale = factor();
    call.dropout = dropout_of(call_);
    call.relu = is_relu();
    call.saved = saved();
    if (!plan_.shares_hidden) call.out = hidden();
    return call;
  }

  Output c() const { return contiguous_output(in_workspace<Scalar>(plan_.c), plan_.c_pitch, kDtype<Scalar>); }
  Output u() const { return contiguous_output(in_workspace<Scalar>(plan_.u), plan_.u_pitch, kDtype<Scalar>); }

  Combine combine_call() const {
    Combine call = {};
    call.experts = experts();
    call.weights = weights();
    call.c = c();
    call.weights_out = weights_out();
    return call;
  }

  // Without tokens only w.
  Cast combining() const {
    Cast cast = {};
    add_combine(cast, combine_call(), tokens_ > 0 ? combine_grid(rank_, d_out_) : Grid{1, 1, 1});
    return cast;
  }

  // y (+)= s u B with weights per token, s h C with one C (for LoRA the transpose of b).
  LargeProduct large_y() const {
    LargeProduct call = {};
    call.x = plan_.has_token_weights ? u().operand() : left_hidden();
    call.weight = plan_.has_token_weights || is_lora() ? b() : c().operand();
    call.tokens = tokens_;
    call.depth = plan_.has_token_weights ? experts_ * rank_ : rank_;
    call.columns = d_out_;
    call.scale = problem_.scaling;
    call.y = y();
    return call;
  }

  const lily_forward &call_;
  const ForwardPlan &plan_;
  const lily_problem &problem_;
  const int tokens_, rank_, experts_, d_out_;
  const ListedRows rows_;
  const bool routes_;
};

}  // namespace lily::cuda
