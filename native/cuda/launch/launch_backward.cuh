// Executes the plan of backward with one engine. Symbols as in docs/math.md.
#pragma once

#include "core/problem.h"
#include "cuda/kernels/backward_dy.cuh"
#include "cuda/kernels/backward_dy_once.cuh"
#include "cuda/kernels/backward_x.cuh"
#include "cuda/kernels/large_outer.cuh"
#include "cuda/launch/launch_large.cuh"

namespace lily::cuda {

template <typename Engine>
class Backward {
 public:
  using Scalar = typename Engine::Scalar;

  Backward(const lily_backward &call, const BackwardPlan &plan, int all_rows)
      : call_(call),
        plan_(plan),
        problem_(call.problem),
        tokens_(static_cast<int>(problem_.tokens)),
        rank_(static_cast<int>(problem_.rank)),
        experts_(static_cast<int>(problem_.experts)),
        d_in_(static_cast<int>(problem_.d_in)),
        d_out_(static_cast<int>(problem_.d_out)),
        rows_{call.tokens.rows, all_rows},
        routes_(has_router(problem_)),
        token_routing_(problem_.routing == LILY_ROUTING_TOKEN),
        transposed_(problem_.routing == LILY_ROUTING_NONE) {}

  // Executes a step of some calls of a list, all with the same tiles.
  static lily_status run(const BackwardCalls &list, Members members, Launcher &launcher) {
    using Rows = Tiles<Engine>;
    const Launch &first = *members[0].launch;
    const auto of = [&](const Member &member) {
      return Backward(list.calls[member.call], list.plans[member.call], list.all_rows);
    };
    // Large ranks: one call after the other.
    const auto launch_each = [&](const auto &launch_one) {
      for (const Member &member : members) LILY_TRY(launch_one(of(member), *member.launch));
      return LILY_OK;
    };
    switch (first.step) {
      case Step::kCast:
        return launcher.launch(kCastKernel, members, [&](const Member &member) { return of(member).casts(); });
      case Step::kDy:
      case Step::kDyColumns:
      case Step::kDyTokens: {
        const auto has_pair = [&](auto tiles) {
          return first.tile.is(typename decltype(tiles)::Shrink{}) &&
                 first.strip_tile.is(typename decltype(tiles)::Strip{});
        };
        return with_row_of(typename Rows::Dy{}, has_pair, [&](auto tiles) {
          using Row = decltype(tiles);
          return launcher.launch(
              ListKernel<BackwardDy>{backward_dy<Row>, backward_dy_list<Row>, "launching the backward_dy kernel"},
              members, [&](const Member &member) { return of(member).dy_call(first.step); });
        });
      }
      case Step::kDyOnce:
        return with_tile<typename Rows::Once>(first.tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(ListKernel<BackwardDyOnce>{backward_dy_once<Row>, backward_dy_once_list<Row>,
                                                            "launching the backward_dy_once kernel"},
                                 members, [&](const Member &member) { return of(member).dy_once(); });
        });
      case Step::kDHidden:
        return launcher.launch(kHiddenKernel, members,
                               [&](const Member &member) { return of(member).backward_hidden_call(); });
      case Step::kX:
        return with_tile<typename Rows::X>(first.tile, [&](auto row) {
          using Row = decltype(row);
          return launcher.launch(
              ListKernel<BackwardX>{backward_x<Row>, backward_x_list<Row>, "launching the backward_x kernel"}, members,
              [&](const Member &member) { return of(member).x_call(); });
        });
      case Step::kLargeD:
      case Step::kLargeDa:
        return with_tile<typename Rows::Large>(first.tile, [&](auto row) {
          return launch_each([&](const Backward &call, const Launch &planned) {
            return launcher.launch(large_outer<decltype(row)>, "launching the large_outer kernel", planned,
                                   call.large_outer_call(planned.step));
          });
        });
      case Step::kLargeDHidden:
        return launch_each([&](const Backward &call, const Launch &planned) {
          return launch_product<Engine>(planned, call.plan_.large_d_hidden, call.transposed_, call.large_d_hidden(),
                                        launcher);
        });
      case Step::kLargeDx:
        return launch_each([&](const Backward &call, const Launch &planned) {
          return launch_product<Engine>(planned, call.plan_.large_dx, true, call.large_dx(), launcher);
        });
      case Step::kReduce:
        return launcher.launch(kReduceKernel, members, [&](const Member &member) { return of(member).reduce_call(); });
      default: return LILY_OK;  // steps of forward
    }
  }

 private:
  template <typename T>
  T *in_workspace(Offset offset) const {
    return at<T>(call_.workspace, offset);
  }
  Groups groups() const { return {call_.tokens.sequence_offsets, static_cast<int>(problem_.groups), tokens_}; }
  TokensWithGradient with_gradient() const {
    return {call_.tokens.mask != nullptr ? call_.weights : nullptr, groups(), experts_};
  }
  Cast casts() const {
    Cast cast = {};
    if (plan_.cast_combines) add_combine(cast, combine_call(), plan_.combine_grid);
    add_cast<Scalar>(cast, call_.workspace, plan_.dy_cast, operand(call_.dy), rows_, call_.tokens.scale);
    add_cast<Scalar>(cast, call_.workspace, plan_.x_cast, operand(call_.x), rows_);
    add_cast<Scalar>(cast, call_.workspace, plan_.hidden_cast, hidden());
    add_cast<Scalar>(cast, call_.workspace, plan_.a_cast, operand(call_.a));
    add_cast<Scalar>(cast, call_.workspace, plan_.b_cast, operand(call_.b));
    return cast;
  }
  // As operands of products.
  Operand dy() const { return cast_operand<Scalar>(call_.workspace, plan_.dy_cast, operand(call_.dy)); }
  Operand x() const { return cast_operand<Scalar>(call_.workspace, plan_.x_cast, operand(call_.x)); }
  Operand a() const { return cast_operand<Scalar>(call_.workspace, plan_.a_cast, operand(call_.a)); }
  Operand b() const { return cast_operand<Scalar>(call_.workspace, plan_.b_cast, operand(call_.b)); }
  Operand left_hidden() const { return cast_operand<Scalar>(call_.workspace, plan_.hidden_cast, hidden()); }

  Operand hidden() const { return contiguous(call_.hidden, rank_, hidden_dtype(problem_)); }
  float *q() const { return in_workspace<float>(plan_.q); }
  float *d_logits() const { return in_workspace<float>(plan_.d_logits); }
  float *token_d_weights() const { return in_workspace<float>(plan_.token_d_weights); }
  Output c() const { return contiguous_output(in_workspace<Scalar>(plan_.c), plan_.c_pitch, kDtype<Scalar>); }
  Output d_hidden() const {
    return contiguous_output(in_workspace<Scalar>(plan_.d_hidden), plan_.d_hidden_pitch, kDtype<Scalar>);
  }

  // Destination of D or dB.
  OuterTarget db_target() const {
    OuterTarget target = {};
    if (plan_.needs_db) {
      target.out = db();
      target.partials = in_workspace<float>(plan_.db_partials);
    }
    target.partial_stride = plan_.db_partial;
    target.partial_pitch = round_up(transposed_ ? rank_ : d_out_, 4);
    target.rows = plan_.outer_rows;
    target.columns = d_out_;
    target.tile_rows = plan_.dy.tile_rows;
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
    return plan_.has_token_weights || transposed_ || call_.deferred_db != nullptr ? nullptr : call_.weights;
  }

  OuterTarget da_target() const {
    OuterTarget target = {};
    target.out = output(call_.da);
    target.partials = call_.da.data != nullptr ? in_workspace<float>(plan_.da_partials) : nullptr;
    target.partial_stride = plan_.da_partial;
    target.partial_pitch = round_up(d_in_, 4);
    target.rows = rank_;
    target.columns = d_in_;
    target.tile_rows = plan_.x.tile_rows;
    target.scale = 1.0f;
    return target;
  }

  Experts experts() const { return {operand(call_.b), experts_, rank_, d_out_, transposed_}; }

  Weights weights() const {
    return {transposed_ ? WeightSource::kOne : WeightSource::kGiven, experts_, call_.weights, 1, LILY_FLOAT32};
  }

  DWeights d_weights() const {
    const bool needed = plan_.needs_d_weights && !plan_.has_token_weights;
    return {experts(), needed ? in_workspace<float>(plan_.d_weights) : nullptr, plan_.d_weights_partials};
  }

  float *kept_target() const {
    return plan_.needs_d_weights && plan_.counts_kept ? in_workspace<float>(plan_.kept) : nullptr;
  }

  Combine combine_call() const {
    Combine call = {};
    call.experts = experts();
    call.weights = weights();
    call.c = c();
    if (!plan_.needs_q) call.c.data = nullptr;
    call.mask = call_.tokens.mask;
    call.tokens = tokens_;
    call.kept = kept_target();
    return call;
  }

  // ---- The dy phase ----

  BackwardDy dy_call(Step step) const {
    BackwardDy call = {};
    call.pooled = !plan_.has_token_weights;
    call.scale = problem_.scaling;
    call.rank = rank_;
    call.strip.lhs.token_weights = {token_routing_ ? call_.probabilities : call_.weights, groups(), experts_,
                                    token_routing_};
    call.splits = step == Step::kDyTokens ? 1 : plan_.dy.splits;
    call.strip.split_tokens = step == Step::kDyTokens ? tokens_ : plan_.dy.split_tokens;
    if (step != Step::kDyColumns) add_token_blocks(call);
    if (step != Step::kDyTokens) add_column_blocks(call);
    if (step == Step::kDyColumns) {
      call.combine = combine_call();
      call.combine_column_tiles = plan_.combine_grid.x;
    }
    return call;
  }

  void add_token_blocks(BackwardDy &call) const {
    call.shrink = {
        dy(), plan_.has_token_weights ? b() : c().operand(), tokens_, d_out_, plan_.shrink_rows, plan_.tile_tokens};
    call.token_tiles = plan_.token_tiles;
    call.q_row_tiles = plan_.q_row_tiles;
    call.q = q();
    call.q_pitch = plan_.q_pitch;
    call.completes = plan_.completes_d_hidden;
    call.d_hidden = d_hidden_call();
    call.token_d_weights = plan_.needs_d_weights && plan_.has_token_weights ? token_d_weights() : nullptr;
  }

  void add_column_blocks(BackwardDy &call) const {
    StripOperands &strip = call.strip;
    strip.lhs.kind = plan_.has_token_weights ? LeftOperandKind::kU : LeftOperandKind::kHidden;
    strip.lhs.hidden = left_hidden();
    strip.lhs.rank = rank_;
    strip.lhs.columns = plan_.outer_rows;
    strip.lhs.one_hot = plan_.one_hot;
    strip.x = dy();
    strip.with_gradient = with_gradient();
    strip.tokens = tokens_;
    strip.columns = d_out_;
    call.column_tiles = plan_.dy.column_tiles;
    call.row_tiles = plan_.dy_row_tiles;
    call.target = db_target();
    call.d_weights = d_weights();
  }

  BackwardDyOnce dy_once() const {
    BackwardDyOnce call = {};
    call.dy = dy();
    call.hidden = left_hidden();
    call.experts = experts();
    call.weights = weights();
    call.tokens = tokens_;
    call.split_tokens = plan_.dy.split_tokens;
    call.column_tiles = plan_.dy.column_tiles;
    call.scale = problem_.scaling;
    call.q_partials = in_workspace<float>(plan_.q_partials);
    call.q_pitch = plan_.q_pitch;
    call.target = db_target();
    call.d_weights = d_weights();
    call.mask = call_.tokens.mask;
    call.kept = kept_target();
    call.with_gradient = with_gradient();
    return call;
  }

  // ---- dh, and the x phase ----

  RouterGradient router_gradient() const {
    RouterGradient router = {};
    router.experts = experts_;
    router.groups = groups();
    if (!routes_) return router;
    const bool from_logits = !token_routing_ && problem_.pool == LILY_POOL_LOGITS;
    router.logit_gradient = from_logits ? LogitGradient::kLogits : LogitGradient::kProbabilities;
    router.router = operand(call_.router);
    router.probabilities = call_.probabilities;
    router.weights = call_.weights;
    router.source = token_routing_            ? DWeightsSource::kTokens
                    : plan_.has_token_weights ? DWeightsSource::kGroups
                                              : DWeightsSource::kPartials;
    router.d_weights = plan_.has_token_weights ? token_d_weights() : in_workspace<float>(plan_.d_weights);
    router.partial_count = plan_.d_weights_partials;
    router.averages = !token_routing_ && !from_logits;
    router.kept = kept_target();
    router.mask = call_.tokens.mask;
    return router;
  }

  DHidden d_hidden_call() const {
    DHidden call = {};
    call.router = router_gradient();
    call.factor = dropout_factor(problem_.dropout);
    call.rank = rank_;
    call.relu = problem_.activation == LILY_ACTIVATION_RELU;
    call.hidden = hidden();
    call.with_gradient = with_gradient();
    if (plan_.needs_d_router) call.d_logits = d_logits();
    if (plan_.needs_q) call.out = d_hidden();
    return call;
  }

  BackwardHidden backward_hidden_call() const {
    BackwardHidden call = {};
    call.d_hidden = d_hidden_call();
    if (plan_.needs_q) call.q = plan_.reads_dy_once ? in_workspace<float>(plan_.q_partials) : q();
    call.q_partials = plan_.reads_dy_once ? plan_.dy.column_tiles : 1;
    call.q_pitch = plan_.q_pitch;
    call.scale = plan_.reads_dy_once ? problem_.scaling : 1.0f;
    call.tokens = tokens_;
    call.block_tokens = plan_.hidden_tokens;
    return call;
  }

  RouterBlocks router_blocks() const {
    RouterBlocks blocks = {};
    if (!plan_.needs_d_router) return blocks;
    blocks.d_logits = d_logits();
    blocks.experts = experts_;
    blocks.splits = plan_.router_splits;
    blocks.split_tokens = plan_.router_split_tokens;
    blocks.element_tiles = plan_.router_element_tiles;
    blocks.tokens = tokens_;
    blocks.rank = rank_;
    blocks.hidden = hidden();
    blocks.partials = in_workspace<float>(plan_.router_partials);
    return blocks;
  }

  BackwardX x_call() const {
    BackwardX call = {};
    StripOperands &strip = call.strip;
    strip.lhs.hidden = d_hidden().operand();
    strip.lhs.rank = strip.lhs.columns = rank_;
    strip.w = a();
    strip.out = output<Scalar>(call_.dx, d_in_, rows_);
    strip.out_scale = 1.0f;
    strip.x = x();
    strip.with_gradient = with_gradient();
    strip.tokens = tokens_;
    strip.columns = d_in_;
    strip.split_tokens = plan_.x.split_tokens;
    call.dropout = dropout_of(call_);
    call.column_tiles = plan_.x.column_tiles;
    call.splits = plan_.x.splits;
    call.expand_blocks = plan_.expand_blocks;
    call.outer_blocks = plan_.outer_blocks;
    call.target = da_target();
    call.router = router_blocks();
    return call;
  }

  // ---- Large ranks ----

  OuterProduct outer_product(const Operand &lhs, const Operand &x, const Dropout &dropout, int columns,
                             const Walk &walk, int blocks, const OuterTarget &target) const {
    return {lhs, x, dropout, columns, walk.column_tiles, walk.splits, walk.split_tokens, blocks, target};
  }

  LargeOuter large_outer_call(Step step) const {
    LargeOuter call = {};
    OuterProduct *next = call.products;
    if (step == Step::kLargeD || !routes_) {
      const int blocks = plan_.dy_row_tiles > 0 ? plan_.dy.outer_blocks() : 0;
      *next++ = outer_product(left_hidden(), dy(), {}, d_out_, plan_.dy, blocks, db_target());
      call.d_weights = d_weights();
    }
    if (step == Step::kLargeDa) {
      *next =
          outer_product(d_hidden().operand(), x(), dropout_of(call_), d_in_, plan_.x, plan_.outer_blocks, da_target());
      call.router = router_blocks();
    }
    call.tokens = tokens_;
    call.rank = rank_;
    call.with_gradient = with_gradient();
    return call;
  }

  // LoRA's b is the transpose of C.
  LargeProduct large_d_hidden() const {
    LargeProduct call = {};
    call.x = dy();
    call.weight = transposed_ ? b() : c().operand();
    call.tokens = tokens_;
    call.depth = d_out_;
    call.columns = rank_;
    call.result = Result::kDHidden;
    call.scale = problem_.scaling;
    call.d_hidden = d_hidden_call();
    return call;
  }

  LargeProduct large_dx() const {
    LargeProduct call = {};
    call.x = d_hidden().operand();
    call.weight = a();
    call.tokens = tokens_;
    call.depth = rank_;
    call.columns = d_in_;
    call.scale = 1.0f;
    call.dropout = dropout_of(call_);
    call.y = output<Scalar>(call_.dx, d_in_, rows_);
    return call;
  }

  // ---- Sums of partial sums ----

  static void add_job(Reduce &reduce, ReduceJob job) {
    job.first_block = reduce.blocks;
    reduce.jobs[reduce.count++] = job;
    reduce.blocks += reduce_blocks(job.rows, job.columns);
  }

  // Without tokens there are no partial sums, and the gradients are zero.
  Reduce reduce_call() const {
    Reduce reduce = {};
    const bool empty = tokens_ == 0;
    if (plan_.reduces_db) {
      const OuterTarget target = db_target();
      add_job(reduce, {target.partials, target.partial_stride, empty ? 0 : plan_.dy.splits, target.partial_pitch,
                       transposed_ ? d_out_ : plan_.outer_rows, transposed_ ? rank_ : d_out_, 1.0f, target.weights,
                       experts_, target.out, 0});
    }
    if (plan_.reduces_da)
      add_job(reduce, {in_workspace<float>(plan_.da_partials), plan_.da_partial, empty ? 0 : plan_.x.splits,
                       round_up(d_in_, 4), rank_, d_in_, 1.0f, nullptr, 1, output(call_.da), 0});
    if (plan_.needs_d_router)
      add_job(reduce, {in_workspace<float>(plan_.router_partials), plan_.router_partial, plan_.router_splits, rank_,
                       experts_, rank_, 1.0f, nullptr, 1, output(call_.d_router), 0});
    if (plan_.mixture_blocks > 0) reduce.mixture = mixture_gradient();
    return reduce;
  }

  MixtureGradient mixture_gradient() const {
    const bool is_learned = problem_.routing == LILY_ROUTING_LEARNED;
    MixtureGradient gradient = {};
    gradient.d_weights = plan_.has_token_weights ? token_d_weights() : in_workspace<float>(plan_.d_weights);
    gradient.partial_count = tokens_ == 0 ? 0 : plan_.d_weights_partials;
    gradient.by_token = plan_.has_token_weights;
    gradient.experts = experts_;
    gradient.groups = groups();
    if (is_learned) gradient.weights = call_.weights;
    gradient.out = output(is_learned ? call_.d_router : call_.d_weights);
    return gradient;
  }

  const lily_backward &call_;
  const BackwardPlan &plan_;
  const lily_problem &problem_;
  const int tokens_, rank_, experts_, d_in_, d_out_;
  const ListedRows rows_;
  const bool routes_, token_routing_, transposed_;
};

}  // namespace lily::cuda
