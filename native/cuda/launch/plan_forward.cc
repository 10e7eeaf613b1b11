// The plan of forward. Symbols as in docs/math.md.
//
// Normally two launches, after one that casts operands of another type or alignment: shrink, and expand (one C for all
// tokens) or mix (weights per token). A third runs between them to pool sequences, or to add partial sums of h and
// route if blocks of the first split d_in or the rank; of a large rank another one combines C, or forms u. Few tokens
// with a rank that is not large always take two (forward_decode.cuh) unless their partial sums are many. Calls of a
// list may have a factor for each token, with which form_u makes the h that the second phase reads.
//
// The splits of d_in follow from d_in alone, and h has the same bits whether or not blocks split it.
#include <cmath>

#include "cuda/launch/choices.h"
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

struct Decode {
  const DecodeRow *row;
  DecodeStages stages;
  int shared_bytes;
};

struct Shrink {
  const ShrinkRow *row;  // null: large_product
  int tile_tokens;
  int splits;        // partial sums of h; 0: blocks compute h, and route
  int route_tokens;  // per block of forward_route; 0: no such launch
};

struct Mix {
  Walk walk;
  bool b_stays;
};

// The choices of a plan; `found` is false for kernels that the call does not launch.
struct ForwardChoice {
  Fastest<Decode> decode;
  Fastest<Shrink> shrink;
  Fastest<Walk> expand;
  Fastest<Mix> mix;
  Fastest<ProductChoice> large_hidden, large_y;
};

constexpr int kMostSplits = 65535;  // the splits are blockIdx.z of forward_shrink

int depth_splits(const lily_problem &problem, const TileRows &rows) {
  return ceil_divide(problem.d_in, kSplitTiles * kTileBytes / rows.scalar_bytes);
}

int shrink_bytes(const ShrinkRow &row, bool routes, int rank, int experts) {
  return routes ? std::max(row.bytes, row.product_bytes + route_bytes(row.tile.block_m, experts, rank)) : row.bytes;
}

// forward_decode loads B before its wait, when no launch of the call can have copied it.
bool stages_b(const lily_problem &problem, Alignment b) {
  const int64_t columns = problem.routing == LILY_ROUTING_NONE ? problem.rank : problem.d_out;
  return b == kAligned && problem.unaligned == 0 && columns * dtype_bytes(problem.parameter_dtype) % kRowAlignment == 0;
}

class ForwardChooser : Chooser {
 public:
  ForwardChooser(const lily_problem &problem, bool has_offsets, bool stages_b, const Device &device,
                 const Restriction *only)
      : Chooser(problem, has_offsets, device, only), stages_b_(stages_b) {}

  ForwardChoice choose() {
    ForwardChoice choice = {};
    if (tokens_ == 0) return choice;
    choice.decode = choose_decode();
    if (choice.decode.found) return choice;
    choice.shrink = choose_shrink();
    if (!choice.shrink.found) return choice;
    if (is_large_) {
      choice.large_hidden = choose_hidden(problem_.d_in, 0);
      choice.large_y = choose_output(has_token_weights_ ? int64_t{experts_} * rank_ : rank_, d_out_,
                                     activations(rank_ + 2.0 * d_out_));
    } else if (has_token_weights_) {
      choice.mix = choose_mix();
    } else {
      choice.expand = choose_strip(rows_.expand, d_out_, false, true,
                                   [&](const StripRow &row, const Walk &walk) { return expand_seconds(row, walk); });
    }
    return choice;
  }

 private:
  // The smallest tile that holds the tokens, with as much of B in flight as is useful: it costs shared memory and so
  // the number of resident blocks.
  Fastest<Decode> choose_decode() const {
    Fastest<Decode> fastest;
    if (problem_.dropout != 0) return fastest;  // training, which has many tokens
    const bool has_few_partials = partials() <= kDecodePartials;
    if (rank_ > kDecodeRank || problem_.groups > kDecodeGroups || !has_few_partials || !stages_b_) return fastest;
    for (const DecodeRow &row : rows_.decode) {
      if (tokens_ > row.tile.block_m || fastest.found) continue;
      DecodeStages stages = decode_stages(row);
      for (stages.stage_units = ceil_divide(stages.units, kDecodeStages); stages.stage_units > 0;
           --stages.stage_units) {
        const int bytes = row.bytes(tokens_, rank_, experts_, static_cast<int>(problem_.groups), combines_in_decode(),
                                    dtype_bytes(problem_.parameter_dtype), stages);
        if (bytes > most_shared_bytes(device_)) continue;
        const double steps = 1 + std::max(0, stages.count() - kDecodeStages) / (kDecodeStages - 1.0);
        const Part part = {std::ceil(d_out_ / double(row.tile.block_n)), steps, 0, 0, 0};
        fastest.consider({&row, stages, bytes}, cost_.seconds(b_bytes(), {bytes, kThreads, 64}, {part}));
      }
    }
    return fastest;
  }

  // Experts are combined. LoRA has one, so there is nothing to combine.
  bool combines_in_decode() const { return !has_token_weights_ && !is_lora(); }

  DecodeStages decode_stages(const DecodeRow &row) const {
    if (combines_in_decode()) return {rank_, experts_, 0};
    return {row.tile.block_k, ceil_divide(int64_t{experts_} * rank_, row.tile.block_k), 0};
  }

  // Elements of all partial sums of h.
  int64_t partials() const { return int64_t{depth_splits(problem_, rows_)} * tokens_ * round_up(rank_, 4); }

  // At a large rank only the tokens per block of forward_route are chosen.
  Fastest<Shrink> choose_shrink() const {
    Fastest<Shrink> fastest;
    const int splits = depth_splits(problem_, rows_);
    // Partial sums stay in L2.
    const bool may_split = splits > 1 && splits <= kMostSplits && partials() * 4 <= int64_t(device_.l2_bytes / 2);
    const auto consider = [&](const Shrink &shrink) {
      if (forward_route_bytes(shrink.route_tokens, experts_, rank_, shrink.splits > 0, routes_) >
          most_shared_bytes(device_))
        return;
      double seconds = shrink.route_tokens > 0 ? route_seconds(shrink) : 0;
      if (shrink.row != nullptr) seconds += shrink_seconds(shrink);
      fastest.consider(shrink, seconds);
    };
    if (is_large_ && !routes_) consider({nullptr, 8, 0, 0});
    for (const ShrinkRow &row : rows_.shrink) {
      if (is_large_ || row.tile.block_n > fitting_block_n(rows_, rank_) || excludes(only_.shrink, row.tile)) continue;
      if ((routes_ && rank_ > row.tile.block_n) ||
          shrink_bytes(row, routes_, rank_, experts_) > most_shared_bytes(device_))
        continue;
      consider({&row, row.tile.block_m, 0, 0});
      // Half a tile of the smallest: fewer tokens per block give more blocks.
      if (row.tile.block_m == 16) consider({&row, 8, 0, 0});
    }
    for (int route_tokens : {8, 16, 32, 64, 128}) {
      // Without a router forward_route has no choice to make: each of its threads adds the partial sums of one vector.
      if (!routes_ && route_tokens > 8) break;
      if (is_large_ && routes_) consider({nullptr, route_tokens, 0, route_tokens});
      for (const ShrinkRow &row : rows_.shrink) {
        if (is_large_ || row.tile.block_n > fitting_block_n(rows_, rank_) || excludes(only_.shrink, row.tile) ||
            row.bytes > most_shared_bytes(device_))
          continue;
        if (routes_ && rank_ > row.tile.block_n) consider({&row, row.tile.block_m, 1, route_tokens});
        if (may_split) consider({&row, row.tile.block_m, splits, route_tokens});
      }
    }
    return fastest;
  }

  double shrink_seconds(const Shrink &shrink) const {
    const ShrinkRow &row = *shrink.row;
    const Tile &tile = row.tile;
    const double blocks = double(ceil_divide(tokens_, shrink.tile_tokens)) * ceil_divide(rank_, tile.block_n);
    const int64_t depth = shrink.splits > 1 ? kSplitTiles * kTileBytes / rows_.scalar_bytes : problem_.d_in;
    const double copied = (std::min(shrink.tile_tokens, tokens_) + std::min(tile.block_n, rank_)) * tile.block_k;
    Part part = cost_.product(blocks * std::max(shrink.splits, 1), ceil_divide(depth, tile.block_k), tile.block_m,
                              tile.block_n, tile.block_k, row.warps, copied);
    part.ahead = row.stages - 1;
    part.latencies = routes_ && shrink.splits == 0 ? 1 + 3 * cost_.l2_latencies() : 1;
    return cost_.seconds(activations(problem_.d_in) + 4.0 * shrink.splits * tokens_ * rank_,
                         {row.bytes, row.threads, row.accumulators}, {part});
  }

  double route_seconds(const Shrink &shrink) const {
    const int tokens = shrink.route_tokens;
    const double vectors = tokens * std::ceil(rank_ / 4.0);
    // Each thread adds the partial sums of a vector; with h, a warp multiplies four tokens.
    const double steps = shrink.splits > 0 ? std::ceil(vectors / kThreads) * std::ceil(shrink.splits / 8.0)
                                           : std::ceil(tokens / 16.0) * experts_ * std::ceil(rank_ / 256.0);
    const double loaded =
        shrink.splits > 0 ? std::min<double>(vectors, kThreads) * std::min(shrink.splits, 8) * 16 : kThreads * 80;
    return cost_.seconds(activations(rank_) + 4.0 * shrink.splits * tokens_ * rank_,
                         {forward_route_bytes(tokens, experts_, rank_, shrink.splits > 0, routes_), kThreads, 0},
                         {{double(ceil_divide(tokens_, tokens)), steps * cost_.l2_latencies(), 0, 0, loaded, 1,
                           3 * cost_.l2_latencies()}});
  }

  double expand_seconds(const StripRow &row, const Walk &walk) const {
    const Tile &tile = row.tile;
    const double depth = std::min(rank_, tile.block_k), tiles = ceil_divide(walk.split_tokens, tile.block_m);
    Part part =
        cost_.product(double(walk.column_tiles) * walk.splits, tiles * walk.row_tiles, tile.block_m, tile.block_n,
                      depth, row.expand_warps, tile.block_m * (depth + 2.0 * tile.block_n / walk.row_tiles));
    // C is combined before the first tile, or, if the rank has several tiles, for each of them.
    const double of_c = combining(tile.block_k, tile.block_n, row.threads);
    part.ahead = walk.row_tiles == 1 ? 2 : 1 / (0.5 + of_c);
    part.latencies = 2 + (walk.row_tiles == 1 ? of_c : 0);
    part.requested = b_bytes() / walk.column_tiles * (walk.row_tiles == 1 ? 1 : tiles);
    return cost_.seconds(activations(rank_ + 2.0 * d_out_),
                         {walk.shared_bytes, row.threads, row.expand_accumulators + 32}, {part});
  }

  Fastest<Mix> choose_mix() const {
    Fastest<Mix> fastest;
    const WalkShape shape = {experts_ * rank_, tokens_, d_out_, experts_};
    for (const MixRow &row : rows_.mix) {
      if (excludes(only_.mix, row.tile)) continue;
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(d_out_, row.tile.block_n), [&](int split_tokens) {
        for (bool b_stays : {true, false}) {
          const Walk walk = mix_walk(row, device_, shape, rank_, b_stays, split_tokens);
          if (walk.column_tiles != 0) fastest.consider({walk, b_stays}, mix_seconds(row, walk, b_stays));
        }
      });
    }
    return fastest;
  }

  double mix_seconds(const MixRow &row, const Walk &walk, bool b_stays) const {
    const Tile &tile = row.tile;
    const double columns = experts_ * rank_, of_b = columns * tile.block_n;
    const double tiles = ceil_divide(walk.split_tokens, tile.block_m);
    Part part = cost_.product(double(walk.column_tiles) * walk.splits, tiles, tile.block_m, tile.block_n, columns,
                              row.warps, tile.block_m * (rank_ + 2.0 * tile.block_n) + (b_stays ? 0 : of_b));
    part.ahead = mix_stages(walk.row_tiles) - 1;
    part.requested = b_stays ? of_b * rows_.scalar_bytes : 0;
    return cost_.seconds(activations(rank_ + 2.0 * d_out_), {walk.shared_bytes, kThreads, row.accumulators}, {part});
  }

  const bool is_large_ = rank_ > kLargeRank, stages_b_;
};

class ForwardPlanner : Planner {
 public:
  ForwardPlanner(const lily_problem &problem, const ForwardOperands &operands, const Device &device,
                 const ForwardChoice &choice)
      : Planner(problem, operands.has_offsets, device),
        operands_(operands),
        choice_(choice),
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
    plan_.decodes = choice_.decode.found;
    if (tokens_ > 0) {
      plan_.x_cast = cast_activation(problem_.d_in, problem_.activation_dtype, operands_.x, true);
      plan_.a_cast = cast_parameter(rank_, problem_.d_in, operands_.a, true);
      if (has_token_weights_ && !plan_.decodes)
        plan_.b_cast = cast_parameter(int64_t{experts_} * rank_, d_out_, operands_.b, true);
      if (is_large_ && is_lora()) plan_.b_cast = cast_parameter(d_out_, rank_, operands_.b, true);
      add_casts(plan_.launches, {plan_.x_cast, plan_.a_cast, plan_.b_cast});
    }
    if (tokens_ == 0)
      add_constant_weights();
    else if (plan_.decodes)
      add_decode(choice_.decode.best);
    else
      add_phases();
    lay_out();
    return plan_;
  }

 private:
  // Whether a launch of its own writes C. LoRA's b is its transpose.
  bool combines() const { return is_large_ && tokens_ > 0 && !has_token_weights_ && !is_lora(); }

  void lay_out() {
    plan_.hidden = plan_.hidden_partials = plan_.scaled = plan_.values = plan_.pooling_partials = plan_.c = plan_.u =
        plan_.weights = kAbsent;
    Workspace workspace(nullptr);
    if (plan_.depth_splits > 0)
      plan_.hidden_partials = take(workspace, plan_.depth_splits * problem_.tokens * plan_.partial_pitch);
    if (!plan_.decodes) {
      plan_.hidden = take(workspace, problem_.tokens * plan_.hidden_pitch, rows_.scalar_bytes);
      if (operands_.has_scale) plan_.scaled = take(workspace, problem_.tokens * plan_.hidden_pitch, rows_.scalar_bytes);
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

  // A warp for each slice of a sequence of average length; the sums do not depend on the number of warps.
  int pool_threads() const { return kWarp * std::clamp(ceil_divide(tokens_, problem_.groups * kWarp), 1, kPoolSlices); }

  // Without tokens only the weights have values: no group of a router has a kept token.
  void add_constant_weights() {
    if (!operands_.has_weights || !has_weights(problem_) || problem_.routing == LILY_ROUTING_FIXED ||
        problem_.groups == 0)
      return;
    if (routes_)
      add(plan_.launches, Step::kPoolWeights, {}, {}, {static_cast<int>(problem_.groups), 1, 1}, 0, kWarp);
    else
      add(plan_.launches, Step::kCombine, {}, {}, {1, 1, 1}, 0);
  }

  void add_decode(const Decode &decode) {
    constexpr int kTile = kDecodeShrinkTile;
    plan_.decode_stages = decode.stages;
    add_shrink({find_shrink_row(rows_, kTile, kTile), kTile, depth_splits(problem_, rows_), 0});
    const Tile &tile = decode.row->tile;
    add(plan_.launches, Step::kDecode, tile, {}, {ceil_divide(d_out_, tile.block_n), 1, 1}, decode.shared_bytes);
  }

  // ---- Two phases ----

  void add_phases() {
    plan_.is_supported = choice_.shrink.found;
    if (!plan_.is_supported) return;
    const Shrink &shrink = choice_.shrink.best;
    if (is_large_)
      add_large_hidden();
    else
      add_shrink(shrink);
    plan_.routes_apart = shrink.route_tokens > 0;
    plan_.route_tokens = plan_.routes_apart ? shrink.route_tokens : shrink.tile_tokens;
    plan_.token_tiles = ceil_divide(tokens_, plan_.route_tokens);
    if (plan_.routes_apart)
      add(plan_.launches, Step::kRoute, {}, {}, {plan_.token_tiles, 1, 1},
          forward_route_bytes(shrink.route_tokens, experts_, rank_, shrink.splits > 0, routes_));
    if (problem_.routing == LILY_ROUTING_SEQUENCE && problem_.groups > 0)
      add(plan_.launches, Step::kPoolWeights, {}, {}, {static_cast<int>(problem_.groups), 1, 1}, 0, pool_threads());
    if (operands_.has_scale) add(plan_.launches, Step::kScale, {}, {}, {ceil_divide(tokens_, kWarps), 1, 1}, 0);
    if (is_large_)
      add_large_y();
    else if (has_token_weights_)
      add_mix();
    else
      add_expand();
  }

  void add_shrink(const Shrink &shrink) {
    const ShrinkRow &row = *shrink.row;
    plan_.tile_tokens = shrink.tile_tokens;
    plan_.depth_splits = shrink.splits;
    add(plan_.launches, shrink.splits > 0 ? Step::kSplitShrink : Step::kShrink, row.tile, {},
        {ceil_divide(tokens_, shrink.tile_tokens), ceil_divide(rank_, row.tile.block_n), std::max(shrink.splits, 1)},
        shrink_bytes(row, routes_ && shrink.splits == 0, rank_, experts_), row.threads);
  }

  void add_expand() {
    plan_.is_supported = choice_.expand.found;
    if (!plan_.is_supported) return;
    add_strips(Step::kExpand, choice_.expand.best.over(tokens_),
               row_of(rows_.expand, choice_.expand.best.tile).threads);
  }

  void add_mix() {
    plan_.is_supported = choice_.mix.found;
    if (!plan_.is_supported) return;
    plan_.b_stays = choice_.mix.best.b_stays;
    add_strips(Step::kMix, choice_.mix.best.walk.over(tokens_), kThreads);
  }

  void add_strips(Step step, const Walk &walk, int threads) {
    plan_.column_tiles = walk.column_tiles;
    plan_.split_tokens = walk.split_tokens;
    add(plan_.launches, step, walk.tile, {}, {walk.column_tiles * walk.splits, 1, 1}, walk.shared_bytes, threads);
  }

  // ---- Large ranks ----

  void add_large_hidden() {
    plan_.is_supported = choice_.large_hidden.found;
    if (!plan_.is_supported) return;
    const ProductChoice &hidden = choice_.large_hidden.best;
    plan_.large_hidden = hidden.plan;
    add_product(plan_.launches, Step::kLargeShrink, hidden, rank_, hidden.row->hidden_bytes(0));
  }

  void add_large_y() {
    plan_.is_supported = plan_.is_supported && choice_.large_y.found;
    if (!plan_.is_supported) return;
    if (has_token_weights_) add(plan_.launches, Step::kFormU, {}, {}, {ceil_divide(tokens_, kWarps), 1, 1}, 0);
    if (combines())
      add(plan_.launches, Step::kCombine, {}, {}, {static_cast<int>(combine_grid(rank_, d_out_).blocks()), 1, 1}, 0);
    const ProductChoice &y = choice_.large_y.best;
    plan_.large_y = y.plan;
    add_product(plan_.launches, Step::kLargeExpand, y, d_out_, y.row->output_bytes);
  }

  const ForwardOperands &operands_;
  const ForwardChoice &choice_;
  const bool is_large_;
  ForwardPlan plan_ = {};
};

}  // namespace

ForwardPlan plan_forward(const lily_problem &problem, const ForwardOperands &operands, const Device &device,
                         const Restriction *only, int64_t all_tokens) {
  const bool aligns_b = stages_b(problem, operands.b);
  const auto choose = [&](const lily_problem &at) {
    return ForwardChooser(at, operands.has_offsets, aligns_b, device, only).choose();
  };
  if (only != nullptr) return ForwardPlanner(problem, operands, device, choose(bucketed(problem))).plan();
  thread_local Choices<ForwardChoice> choices;
  const int flags = operands.has_offsets + 2 * aligns_b;
  // The sums of w depend on how many tokens a block has.
  const bool pools_blocks = has_router(problem) && !has_token_weights(problem, operands.has_offsets);
  lily_problem chosen = problem;
  if (problem.tokens > 0 && !pools_blocks) chosen.tokens = std::max(problem.tokens, all_tokens);
  return ForwardPlanner(problem, operands, device, choices.find(chosen, flags, device, choose)).plan();
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
