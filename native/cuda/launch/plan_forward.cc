// The plan of forward. Symbols as in docs/math.md.
//
// Normally two launches, after one that casts operands of another type or alignment: shrink, and expand (one C for all
// tokens) or mix (weights per token). A third runs between them to pool sequences, or to route if the rank is larger
// than one tile; of a large rank another one combines C, or forms u. Few tokens with a rank that is not large always
// take two (forward_decode.cuh).
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
    plan_.depth_splits = ceil_divide(problem_.d_in, split_depth());
    plan_.hidden_pitch = round_up(rank_, vector_elements(rows_));
    plan_.partial_pitch = round_up(rank_, 4);
    plan_.c_pitch = round_up(d_out_, vector_elements(rows_));
    plan_.u_pitch = round_up(int64_t{experts_} * rank_, vector_elements(rows_));
    plan_.shares_hidden = operands_.hidden_is_aligned && dtype_bytes(hidden_dtype(problem_)) == rows_.scalar_bytes;
    const Fastest<Decode> decode = choose_decode();
    plan_.decodes = decode.found;
    if (tokens_ > 0 && !plan_.decodes) {
      plan_.x_cast = cast_activation(problem_.d_in, problem_.activation_dtype, operands_.x, true);
      plan_.a_cast = cast_parameter(rank_, problem_.d_in, operands_.a, true);
      if (has_token_weights_) plan_.b_cast = cast_parameter(int64_t{experts_} * rank_, d_out_, operands_.b, true);
      if (is_large_ && is_lora()) plan_.b_cast = cast_parameter(d_out_, rank_, operands_.b, true);
      add_casts(plan_.launches, {plan_.x_cast, plan_.a_cast, plan_.b_cast});
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
  bool is_lora() const { return problem_.routing == LILY_ROUTING_NONE; }
  // Whether a launch of its own writes C. LoRA's b is its transpose.
  bool combines() const { return is_large_ && !has_token_weights_ && !is_lora(); }

  // Elements of d_in per split, if the call decodes.
  int split_depth() const { return kSplitTiles * kTileBytes / rows_.scalar_bytes; }

  void lay_out() {
    plan_.hidden = plan_.hidden_partials = plan_.values = plan_.pooling_partials = plan_.c = plan_.u = plan_.weights =
        kAbsent;
    Workspace workspace(nullptr);
    if (plan_.decodes) {
      plan_.hidden_partials = take(workspace, plan_.depth_splits * problem_.tokens * plan_.partial_pitch);
    } else {
      plan_.hidden = take(workspace, problem_.tokens * plan_.hidden_pitch, rows_.scalar_bytes);
      if (routes_) plan_.values = take(workspace, problem_.tokens * experts_);
      if (routes_ && !has_token_weights_)
        plan_.pooling_partials = take(workspace, int64_t{plan_.token_tiles} * (experts_ + 1));
      if (combines()) plan_.c = take(workspace, int64_t{rank_} * plan_.c_pitch, rows_.scalar_bytes);
      if (is_large_ && has_token_weights_)
        plan_.u = take(workspace, problem_.tokens * plan_.u_pitch, rows_.scalar_bytes);
      if (has_token_weights_) plan_.weights = take(workspace, problem_.groups * experts_);
      lay_out_casts(workspace, {&plan_.x_cast, &plan_.a_cast, &plan_.b_cast});
    }
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
    constexpr int kMostSplits = 65535;  // the splits are blockIdx.z of the first launch
    Fastest<Decode> fastest;
    if (tokens_ == 0 || rank_ > kDecodeRank || problem_.groups > kDecodeGroups || plan_.depth_splits > kMostSplits)
      return fastest;
    for (const DecodeRow &row : rows_.decode) {
      if (tokens_ > row.tile.block_m || fastest.found) continue;
      DecodeStages stages = decode_stages(row);
      for (stages.stage_units = ceil_divide(stages.units, kDecodeStages); stages.stage_units > 0;
           --stages.stage_units) {
        const int bytes = row.bytes(rank_, experts_, static_cast<int>(problem_.groups), combines_in_decode(),
                                    dtype_bytes(problem_.parameter_dtype), stages);
        if (bytes <= most_shared_bytes(device_))
          fastest.consider({&row, stages, bytes}, model_.seconds(model_.decode(row, stages, bytes)));
      }
    }
    return fastest;
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
    const int64_t count = problem_.groups * experts_;
    if (!operands_.has_weights || !has_weights(problem_) || problem_.routing == LILY_ROUTING_FIXED || count == 0)
      return;
    add(plan_.launches, Step::kWriteWeights, {}, {}, {ceil_divide(count, kThreads), 1, 1}, 0, {});
  }

  void add_decode(const Decode &decode) {
    constexpr int kTile = kDecodeShrinkTile;
    plan_.tile_tokens = kTile;
    plan_.decode_stages = decode.stages;
    const ShrinkRow *row = find_shrink_row(rows_, kTile, kTile);
    const Grid blocks = {ceil_divide(tokens_, kTile), ceil_divide(rank_, kTile), plan_.depth_splits};
    add(plan_.launches, Step::kDecodeShrink, row->tile, {}, blocks, row->bytes, model_.decode_shrink(*row));
    const Tile &tile = decode.row->tile;
    add(plan_.launches, Step::kDecode, tile, {}, {ceil_divide(d_out_, tile.block_n), 1, 1}, decode.shared_bytes,
        model_.decode(*decode.row, decode.stages, decode.shared_bytes));
  }

  // ---- Two phases ----

  struct Shrink {
    const ShrinkRow *row;
    int tile_tokens;
  };

  void add_phases() {
    const Fastest<Shrink> shrink = choose_shrink();
    plan_.is_supported = shrink.found;
    if (!shrink.found) return;
    set_tile_tokens(shrink.best.tile_tokens);
    if (is_large_)
      add_large_shrink();
    else
      add_shrink(*shrink.best.row);
    if (routes_apart(*shrink.best.row))
      add(plan_.launches, Step::kRoute, {}, {}, {plan_.token_tiles, 1, 1},
          plan_.tile_tokens * (experts_ | 1) * static_cast<int>(sizeof(float)), model_.route(plan_.tile_tokens));
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

  void set_tile_tokens(int tile_tokens) {
    plan_.tile_tokens = tile_tokens;
    plan_.token_tiles = ceil_divide(tokens_, tile_tokens);
  }

  bool routes_apart(const ShrinkRow &row) const { return routes_ && (is_large_ || rank_ > row.tile.block_n); }

  // Of a large rank only the tokens per block are used, by the router's launch. The second phase adds a partial sum of
  // w for each tile of tokens, so that its time counts too; that of `seconds` is both.
  Fastest<Shrink> choose_shrink() {
    Fastest<Shrink> fastest;
    const int fitting = fitting_block_n(rows_, rank_);
    int known_tokens = 0;
    double second_phase = 0;
    for (int tile_tokens : {8, 16, 32, 64, 128})
      for (const ShrinkRow &row : rows_.shrink) {
        // Half a tile of the smallest: fewer tokens per block give more blocks.
        const bool fits = row.tile.block_m == tile_tokens || (row.tile.block_m == 16 && tile_tokens == 8);
        if (!fits || row.tile.block_n > fitting || excludes(only_.shrink, row.tile) ||
            shrink_bytes(row) > most_shared_bytes(device_))
          continue;
        if (known_tokens == 0 || (known_tokens != tile_tokens && routes_ && !has_token_weights_)) {
          set_tile_tokens(tile_tokens);
          second_phase = second_phase_seconds();
          known_tokens = tile_tokens;
        }
        double seconds = second_phase;
        if (!is_large_) seconds += model_.seconds(model_.shrink(row, tile_tokens, true));
        if (routes_apart(row)) seconds += model_.seconds(model_.route(tile_tokens));
        fastest.consider({&row, tile_tokens}, seconds);
      }
    return fastest;
  }

  double second_phase_seconds() const {
    if (is_large_) return combines() ? model_.seconds(model_.combine(partial_count())) : 0;
    return has_token_weights_ ? choose_mix().seconds : choose_expand().seconds;
  }

  int shrink_bytes(const ShrinkRow &row) const {
    const int routing = row.product_bytes + route_bytes(row.tile.block_m, experts_, rank_);
    return routes_ && !routes_apart(row) ? std::max(row.bytes, routing) : row.bytes;
  }

  void add_shrink(const ShrinkRow &row) {
    add(plan_.launches, Step::kShrink, row.tile, {}, {plan_.token_tiles, ceil_divide(rank_, row.tile.block_n), 1},
        shrink_bytes(row), model_.shrink(row, plan_.tile_tokens, plan_.shares_hidden), row.threads);
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
      add(plan_.launches, Step::kCombine, {}, {}, combine_grid(rank_, d_out_), 0, model_.combine(partial_count()));
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
