// The plan of forward. Symbols as in docs/math.md.
//
// Normally two launches, after one that casts operands of another type or alignment: shrink, and expand (one C for all
// tokens) or mix (weights per token). A third runs between them to pool sequences, or to add partial sums of h and
// route if blocks of the first split d_in or the rank; of a large rank another one combines C, or forms u. Few tokens
// with a rank that is not large always take two (forward_decode.cuh) unless their partial sums are many.
//
// The splits of d_in follow from d_in alone, and h has the same bits whether or not blocks split it.
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

class ForwardPlanner : Planner {
 public:
  ForwardPlanner(const lily_problem &problem, const ForwardOperands &operands, const Device &device,
                 const Restriction &only)
      : Planner(problem, operands.has_offsets, device, only),
        operands_(operands),
        is_large_(problem.rank > kLargeRank) {}

  ForwardPlan plan() {
    plan_.engine = engine_;
    plan_.is_supported = true;
    plan_.has_token_weights = has_token_weights_;
    plan_.pools_logits = problem_.routing != LILY_ROUTING_TOKEN && problem_.pool == LILY_POOL_LOGITS;
    plan_.hidden_pitch = round_up(rank_, vector_elements(rows_));
    plan_.partial_pitch = round_up(rank_, 4);
    plan_.c_pitch = round_up(d_out_, vector_elements(rows_));
    plan_.u_pitch = round_up(int64_t{experts_} * rank_, vector_elements(rows_));
    plan_.shares_hidden = operands_.hidden_is_aligned && dtype_bytes(hidden_dtype(problem_)) == rows_.scalar_bytes;
    const Fastest<Decode> decode = choose_decode();
    plan_.decodes = decode.found;
    if (tokens_ > 0) {
      plan_.x_cast = cast_activation(problem_.d_in, problem_.activation_dtype, operands_.x, true);
      plan_.a_cast = cast_parameter(rank_, problem_.d_in, operands_.a, true);
      if (has_token_weights_ && !plan_.decodes)
        plan_.b_cast = cast_parameter(int64_t{experts_} * rank_, d_out_, operands_.b, true);
      if (is_large_ && is_lora()) plan_.b_cast = cast_parameter(d_out_, rank_, operands_.b, true);
      add_casts(plan_.launches, model_, {plan_.x_cast, plan_.a_cast, plan_.b_cast});
    }
    if (tokens_ == 0)
      add_constant_weights();
    else if (plan_.decodes)
      add_decode(decode.best);
    else
      add_phases();
    lay_out();
    return plan_;
  }

 private:
  static constexpr int kMostSplits = 65535;  // the splits are blockIdx.z of forward_shrink

  bool is_lora() const { return problem_.routing == LILY_ROUTING_NONE; }
  // Whether a launch of its own writes C. LoRA's b is its transpose.
  bool combines() const { return is_large_ && !has_token_weights_ && !is_lora(); }

  int depth_splits() const { return ceil_divide(problem_.d_in, kSplitTiles * kTileBytes / rows_.scalar_bytes); }

  void lay_out() {
    plan_.hidden = plan_.hidden_partials = plan_.values = plan_.pooling_partials = plan_.c = plan_.u = plan_.weights =
        kAbsent;
    Workspace workspace(nullptr);
    if (plan_.depth_splits > 0)
      plan_.hidden_partials = take(workspace, plan_.depth_splits * problem_.tokens * plan_.partial_pitch);
    if (!plan_.decodes) {
      plan_.hidden = take(workspace, problem_.tokens * plan_.hidden_pitch, rows_.scalar_bytes);
      if (routes_) plan_.values = take(workspace, problem_.tokens * experts_);
      if (routes_ && !has_token_weights_)
        plan_.pooling_partials = take(workspace, int64_t{plan_.token_tiles} * (experts_ + 1));
      if (combines()) plan_.c = take(workspace, int64_t{rank_} * plan_.c_pitch, rows_.scalar_bytes);
      if (is_large_ && has_token_weights_)
        plan_.u = take(workspace, problem_.tokens * plan_.u_pitch, rows_.scalar_bytes);
      if (has_token_weights_) plan_.weights = take(workspace, problem_.groups * experts_);
    }
    lay_out_casts(workspace, rows_.scalar_bytes, {&plan_.x_cast, &plan_.a_cast, &plan_.b_cast});
    plan_.workspace_bytes = workspace.bytes();
  }

  struct Decode {
    const DecodeRow *row;
    DecodeStages stages;
    int shared_bytes;
  };

  // The smallest tile that holds the tokens, with as much of B in flight as the model finds useful: it costs shared
  // memory and so the number of resident blocks.
  Fastest<Decode> choose_decode() const {
    Fastest<Decode> fastest;
    const bool has_few_partials = int64_t{depth_splits()} * tokens_ * plan_.partial_pitch <= kDecodePartials;
    if (tokens_ == 0 || rank_ > kDecodeRank || problem_.groups > kDecodeGroups || !has_few_partials || !stages_b())
      return fastest;
    for (const DecodeRow &row : rows_.decode) {
      if (tokens_ > row.tile.block_m || fastest.found) continue;
      DecodeStages stages = decode_stages(row);
      for (stages.stage_units = ceil_divide(stages.units, kDecodeStages); stages.stage_units > 0;
           --stages.stage_units) {
        const int bytes = row.bytes(tokens_, rank_, experts_, static_cast<int>(problem_.groups), combines_in_decode(),
                                    dtype_bytes(problem_.parameter_dtype), stages);
        if (bytes <= most_shared_bytes(device_))
          fastest.consider({&row, stages, bytes}, model_.seconds(model_.decode(row, stages, bytes)));
      }
    }
    return fastest;
  }

  // forward_decode loads B before its wait, when no launch of the call can have copied it.
  bool stages_b() const {
    const int64_t columns = problem_.routing == LILY_ROUTING_NONE ? rank_ : d_out_;
    return operands_.b == kAligned && problem_.unaligned == 0 &&
           columns * dtype_bytes(problem_.parameter_dtype) % kRowAlignment == 0;
  }

  // Experts are combined. LoRA has one, of which nothing is to be combined.
  bool combines_in_decode() const { return !has_token_weights_ && !is_lora(); }

  DecodeStages decode_stages(const DecodeRow &row) const {
    if (combines_in_decode()) return {rank_, experts_, 0};
    return {row.tile.block_k, ceil_divide(int64_t{experts_} * rank_, row.tile.block_k), 0};
  }

  // A warp for each slice of a sequence of average length; the sums do not depend on the number of warps.
  int pool_threads() const { return kWarp * std::clamp(ceil_divide(tokens_, problem_.groups * kWarp), 1, kPoolSlices); }

  // Without tokens only the weights have values: no group has a kept token.
  void add_constant_weights() {
    if (!operands_.has_weights || !has_weights(problem_) || problem_.routing == LILY_ROUTING_FIXED ||
        problem_.groups == 0)
      return;
    add(plan_.launches, Step::kPoolWeights, {}, {}, {static_cast<int>(problem_.groups), 1, 1}, 0, {}, kWarp);
  }

  void add_decode(const Decode &decode) {
    constexpr int kTile = kDecodeShrinkTile;
    plan_.decode_stages = decode.stages;
    add_shrink({find_shrink_row(rows_, kTile, kTile), kTile, depth_splits(), 0});
    const Tile &tile = decode.row->tile;
    add(plan_.launches, Step::kDecode, tile, {}, {ceil_divide(d_out_, tile.block_n), 1, 1}, decode.shared_bytes,
        model_.decode(*decode.row, decode.stages, decode.shared_bytes));
  }

  // ---- Two phases ----

  struct Shrink {
    const ShrinkRow *row;  // null: large_shrink
    int tile_tokens;
    int splits;        // partial sums of h; 0: blocks compute h, and route
    int route_tokens;  // per block of forward_route; 0: no such launch
  };

  void add_phases() {
    const Fastest<Shrink> shrink = choose_shrink();
    plan_.is_supported = shrink.found;
    if (!shrink.found) return;
    if (is_large_)
      add_large_shrink();
    else
      add_shrink(shrink.best);
    set_route_tokens(shrink.best);
    if (plan_.routes_apart)
      add(plan_.launches, Step::kRoute, {}, {}, {plan_.token_tiles, 1, 1}, route_bytes_of(shrink.best),
          route_work(shrink.best, plan_.shares_hidden));
    if (problem_.routing == LILY_ROUTING_SEQUENCE && problem_.groups > 0)
      add(plan_.launches, Step::kPoolWeights, {}, {}, {static_cast<int>(problem_.groups), 1, 1}, 0,
          model_.pool(pool_threads()), pool_threads());
    if (is_large_)
      add_large_y();
    else if (has_token_weights_)
      add_mix(choose_mix());
    else
      add_expand(choose_expand());
  }

  void set_route_tokens(const Shrink &shrink) {
    plan_.routes_apart = shrink.route_tokens > 0;
    plan_.route_tokens = plan_.routes_apart ? shrink.route_tokens : shrink.tile_tokens;
    plan_.token_tiles = ceil_divide(tokens_, plan_.route_tokens);
  }

  int route_bytes_of(const Shrink &shrink) const {
    return forward_route_bytes(shrink.route_tokens, experts_, rank_, shrink.splits > 0, routes_);
  }
  Work route_work(const Shrink &shrink, bool shares_hidden) const {
    return is_large_ ? model_.route(shrink.route_tokens)
                     : model_.route(shrink.route_tokens, shrink.splits, shares_hidden, route_bytes_of(shrink));
  }

  // Of a large rank only the tokens per block of forward_route are chosen. The second phase adds a partial sum of w for
  // each block that routes, so that its time counts too; that of `seconds` is both.
  Fastest<Shrink> choose_shrink() {
    Fastest<Shrink> fastest;
    double second_phase = -1;
    for (int tokens : {8, 16, 32, 64, 128}) {
      // Without a router forward_route has no choice to make: each of its threads adds the partial sums of one vector.
      const bool counts = routes_ || tokens == 8;
      set_route_tokens({nullptr, tokens, 0, 0});
      if (routes_ && !has_token_weights_) second_phase = -1;
      const auto consider = [&](const Shrink &shrink) {
        if (route_bytes_of(shrink) > most_shared_bytes(device_)) return;
        if (second_phase < 0) second_phase = second_phase_seconds();
        double seconds = second_phase;
        if (shrink.row != nullptr)
          seconds += model_.seconds(model_.shrink(*shrink.row, shrink.tile_tokens, shrink.splits, true));
        if (shrink.route_tokens > 0) seconds += model_.seconds(route_work(shrink, true));
        fastest.consider(shrink, seconds);
      };
      if (is_large_) {
        if (counts) consider({nullptr, tokens, 0, routes_ ? tokens : 0});
        continue;
      }
      for (const ShrinkRow &row : rows_.shrink) {
        if (row.tile.block_n > fitting_block_n(rows_, rank_) || excludes(only_.shrink, row.tile)) continue;
        const bool has_rows = rank_ <= row.tile.block_n;
        // Half a tile of the smallest: fewer tokens per block give more blocks.
        const bool fits = row.tile.block_m == tokens || (row.tile.block_m == 16 && tokens == 8);
        if (fits && (has_rows || !routes_) && shrink_bytes(row, 0) <= most_shared_bytes(device_))
          consider({&row, tokens, 0, 0});
        if (!counts || shrink_bytes(row, 1) > most_shared_bytes(device_)) continue;
        if (!has_rows && routes_) consider({&row, row.tile.block_m, 1, tokens});
        if (may_split_depth()) consider({&row, row.tile.block_m, depth_splits(), tokens});
      }
    }
    return fastest;
  }

  // Partial sums stay in L2.
  bool may_split_depth() const {
    const int64_t bytes = int64_t{depth_splits()} * tokens_ * plan_.partial_pitch * static_cast<int64_t>(sizeof(float));
    return depth_splits() > 1 && depth_splits() <= kMostSplits && bytes <= static_cast<int64_t>(device_.l2_bytes / 2);
  }

  double second_phase_seconds() const {
    if (is_large_) return combines() ? model_.seconds(model_.combine(partial_count())) : 0;
    return has_token_weights_ ? choose_mix().seconds : choose_expand().seconds;
  }

  int shrink_bytes(const ShrinkRow &row, int splits) const {
    const int routing = row.product_bytes + route_bytes(row.tile.block_m, experts_, rank_);
    return routes_ && splits == 0 ? std::max(row.bytes, routing) : row.bytes;
  }

  void add_shrink(const Shrink &shrink) {
    const ShrinkRow &row = *shrink.row;
    plan_.tile_tokens = shrink.tile_tokens;
    plan_.depth_splits = shrink.splits;
    add(plan_.launches, shrink.splits > 0 ? Step::kSplitShrink : Step::kShrink, row.tile, {},
        {ceil_divide(tokens_, shrink.tile_tokens), ceil_divide(rank_, row.tile.block_n), std::max(shrink.splits, 1)},
        shrink_bytes(row, shrink.splits), model_.shrink(row, shrink.tile_tokens, shrink.splits, plan_.shares_hidden),
        row.threads);
  }

  // Partial sums of w, which every block of the second phase adds.
  int partial_count() const { return routes_ && !has_token_weights_ ? plan_.token_tiles : 0; }

  Fastest<Walk> choose_expand() const {
    Fastest<Walk> fastest;
    const WalkShape shape = {rank_, tokens_, d_out_, experts_};
    const int fitting = fitting_block_k(rows_.expand, rank_);
    for (const StripRow &row : rows_.expand) {
      if (row.tile.block_k > fitting || excludes(only_.strip, row.tile)) continue;
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_out_, row.tile.block_n), [&](int split_tokens) {
        const Walk walk = strip_walk(row, device_, shape, true, false, split_tokens);
        if (walk.column_tiles != 0) fastest.consider(walk, model_.seconds(model_.expand(row, walk, partial_count())));
      });
    }
    return fastest;
  }

  void add_expand(const Fastest<Walk> &fastest) {
    plan_.is_supported = plan_.is_supported && fastest.found;
    if (!fastest.found) return;
    const Walk &walk = fastest.best;
    plan_.column_tiles = walk.column_tiles;
    plan_.split_tokens = walk.split_tokens;
    add(plan_.launches, Step::kExpand, walk.tile, {}, {walk.column_tiles * walk.splits, 1, 1}, walk.shared_bytes,
        model_.expand(row_of(rows_.expand, walk.tile), walk, partial_count()), row_of(rows_.expand, walk.tile).threads);
  }

  struct Mix {
    Walk walk;
    bool b_stays;
  };

  Fastest<Mix> choose_mix() const {
    Fastest<Mix> fastest;
    const WalkShape shape = {experts_ * rank_, tokens_, d_out_, experts_};
    for (const MixRow &row : rows_.mix) {
      if (excludes(only_.mix, row.tile)) continue;
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_out_, row.tile.block_n), [&](int split_tokens) {
        for (bool b_stays : {true, false}) {
          const Walk walk = mix_walk(row, device_, shape, rank_, b_stays, split_tokens);
          if (walk.column_tiles != 0) fastest.consider({walk, b_stays}, model_.seconds(model_.mix(row, walk, b_stays)));
        }
      });
    }
    return fastest;
  }

  void add_mix(const Fastest<Mix> &fastest) {
    plan_.is_supported = plan_.is_supported && fastest.found;
    if (!fastest.found) return;
    const Walk &walk = fastest.best.walk;
    plan_.column_tiles = walk.column_tiles;
    plan_.split_tokens = walk.split_tokens;
    plan_.b_stays = fastest.best.b_stays;
    add(plan_.launches, Step::kMix, walk.tile, {}, {walk.column_tiles * walk.splits, 1, 1}, walk.shared_bytes,
        model_.mix(row_of(rows_.mix, walk.tile), walk, plan_.b_stays));
  }

  // ---- Large ranks ----

  void add_large_shrink() {
    const auto work = [&](bool shares_hidden) {
      return [this, shares_hidden](const LargeRow &row, const ProductPlan &plan) {
        return model_.large_hidden(row, plan, shares_hidden);
      };
    };
    const Fastest<ProductChoice> fastest = choose_hidden(0, work(true));
    plan_.is_supported = plan_.is_supported && fastest.found;
    if (!fastest.found) return;
    plan_.large_hidden = fastest.best.plan;
    const LargeRow &row = *fastest.best.row;
    add_product(plan_.launches, Step::kLargeShrink, fastest.best, rank_, row.hidden_bytes(0),
                work(plan_.shares_hidden)(row, plan_.large_hidden));
  }

  void add_large_y() {
    const auto work = [this](const LargeRow &row, const ProductPlan &plan) { return model_.large_y(row, plan); };
    const Fastest<ProductChoice> fastest = choose_output(d_out_, work);
    plan_.is_supported = plan_.is_supported && fastest.found;
    if (!fastest.found) return;
    if (has_token_weights_)
      add(plan_.launches, Step::kFormU, {}, {}, {ceil_divide(tokens_, kWarps), 1, 1}, 0, model_.form_u());
    if (combines())
      add(plan_.launches, Step::kCombine, {}, {}, {static_cast<int>(combine_grid(rank_, d_out_).blocks()), 1, 1}, 0,
          model_.combine(partial_count()));
    plan_.large_y = fastest.best.plan;
    const LargeRow &row = *fastest.best.row;
    add_product(plan_.launches, Step::kLargeExpand, fastest.best, d_out_, row.output_bytes, work(row, plan_.large_y));
  }

  const ForwardOperands &operands_;
  const bool is_large_;
  ForwardPlan plan_ = {};
};

}  // namespace

ForwardPlan plan_forward(const lily_problem &problem, const ForwardOperands &operands, const Device &device,
                         const Restriction &only) {
  return ForwardPlanner(problem, operands, device, only).plan();
}

size_t forward_workspace_bytes(const lily_problem &problem, const Device &device) {
  ForwardOperands operands = {};
  size_t bytes = plan_forward(problem, operands, device).workspace_bytes;
  if (depends_on_offsets(problem)) {
    operands.has_offsets = true;
    bytes = std::max(bytes, plan_forward(problem, operands, device).workspace_bytes);
  }
  return bytes;
}

}  // namespace lily::cuda
