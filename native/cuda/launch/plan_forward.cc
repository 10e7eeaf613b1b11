// The plan of forward. Symbols as in docs/math.md.
//
// Normally two launches: shrink and expand. A third runs between them to pool sequences, to route if the rank is larger
// than one tile, or to combine C if the rank is large and many tokens share C. Token routing of many tokens takes one
// launch (forward_token.cuh); few tokens with a rank that is not large always take two (forward_decode.cuh).
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

class ForwardPlanner {
 public:
  ForwardPlanner(const lily_problem &problem, const ForwardOperands &operands, const Device &device)
      : problem_(problem),
        operands_(operands),
        device_(device),
        rows_(tile_rows(engine_kind(problem, device))),
        tokens_(static_cast<int>(problem.tokens)),
        rank_(static_cast<int>(problem.rank)),
        experts_(static_cast<int>(problem.experts)),
        d_out_(static_cast<int>(problem.d_out)),
        routes_(has_router(problem)),
        is_large_(problem.rank > kLargeRank),
        block_n_(shrink_block_n(rows_, rank_)) {}

  ForwardPlan plan() {
    plan_.engine = engine_kind(problem_, device_);
    plan_.is_supported = true;
    plan_.has_token_weights = has_token_weights(problem_, operands_.has_offsets);
    plan_.pools_logits = problem_.routing != LILY_ROUTING_TOKEN && problem_.pool == LILY_POOL_LOGITS;
    plan_.tile_tokens = shrink_tokens(most_shrink_tokens(rows_, device_, block_n_), tokens_, device_);
    plan_.token_tiles = ceil_divide(tokens_, plan_.tile_tokens);
    plan_.depth_splits = ceil_divide(problem_.d_in, split_depth());
    plan_.hidden_pitch = round_up(rank_, vector_elements(rows_));
    plan_.partial_pitch = round_up(rank_, 4);
    plan_.c_pitch = round_up(d_out_, vector_elements(rows_));
    decode_row_ = find_decode_row();
    plan_.decodes = decode_row_ != nullptr;
    plan_.shares_hidden = operands_.hidden_is_aligned && dtype_bytes(hidden_dtype(problem_)) == rows_.scalar_bytes;
    lay_out();
    add_launches();
    return plan_;
  }

 private:
  // Elements of d_in per split, if the call decodes.
  int split_depth() const { return kSplitTiles * kTileBytes / rows_.scalar_bytes; }

  // Otherwise each tile of tokens combines all of C. From about 512 tokens on, one more launch and C in memory cost
  // less.
  bool writes_c() const { return is_large_ && !plan_.has_token_weights && tokens_ > 512; }

  void lay_out() {
    plan_.hidden = plan_.hidden_partials = plan_.values = plan_.pooling_partials = plan_.c = plan_.weights = kAbsent;
    Workspace workspace(nullptr);
    if (plan_.decodes) {
      plan_.hidden_partials = take(workspace, plan_.depth_splits * problem_.tokens * plan_.partial_pitch);
    } else {
      plan_.hidden = take(workspace, problem_.tokens * plan_.hidden_pitch, rows_.scalar_bytes);
      if (routes_) plan_.values = take(workspace, problem_.tokens * experts_);
      if (routes_ && !plan_.has_token_weights)
        plan_.pooling_partials = take(workspace, int64_t{plan_.token_tiles} * (experts_ + 1));
      if (writes_c()) plan_.c = take(workspace, int64_t{rank_} * plan_.c_pitch, rows_.scalar_bytes);
      if (plan_.has_token_weights) plan_.weights = take(workspace, problem_.groups * experts_);
    }
    plan_.workspace_bytes = workspace.bytes();
  }

  const DecodeRow *find_decode_row() const {
    constexpr int kMostSplits = 65535;  // the splits are blockIdx.z of the first launch
    if (tokens_ == 0 || rank_ > kDecodeRank || problem_.groups > kDecodeGroups || plan_.depth_splits > kMostSplits)
      return nullptr;
    for (const DecodeRow &row : rows_.decode)
      if (tokens_ <= row.tile.block_m &&
          row.bytes(rank_, experts_, static_cast<int>(problem_.groups)) <= most_shared_bytes(device_))
        return &row;
    return nullptr;
  }

  const TokenRow *find_token_row() const {
    if (problem_.routing != LILY_ROUTING_TOKEN) return nullptr;
    for (const TokenRow &row : rows_.token)
      if (row.shrink.block_n == block_n_ && plan_.tile_tokens == row.tile.block_m &&
          experts_ * rank_ <= row.tile.block_k && row.bytes(experts_, rank_) <= most_shared_bytes(device_))
        return &row;
    return nullptr;
  }

  void add_launches() {
    if (tokens_ == 0) {
      add_constant_weights();
    } else if (plan_.decodes) {
      add_decode();
    } else if (const TokenRow *row = find_token_row()) {
      add(plan_.launches,
          {Step::kToken, row->shrink, row->tile, {plan_.token_tiles, 1, 1}, row->bytes(experts_, rank_)});
    } else {
      if (is_large_)
        add_large_shrink();
      else
        add_shrink();
      if (routes_ && rank_ > block_n_)
        add(plan_.launches,
            {Step::kRoute, {}, {}, {plan_.token_tiles, 1, 1}, plan_.tile_tokens * (experts_ | 1) * kFloat});
      if (problem_.routing == LILY_ROUTING_SEQUENCE && problem_.groups > 0)
        add(plan_.launches, {Step::kPoolWeights, {}, {}, {static_cast<int>(problem_.groups), 1, 1}, 0, pool_threads()});
      if (is_large_)
        add_large_expand();
      else
        add_expand();
    }
  }

  // A warp for each slice of a sequence of average length; the sums do not depend on the number of warps.
  int pool_threads() const { return kWarp * std::clamp(ceil_divide(tokens_, problem_.groups * kWarp), 1, kPoolSlices); }

  // Without tokens only the weights have values: no group has a kept token.
  void add_constant_weights() {
    const int64_t count = problem_.groups * experts_;
    if (!operands_.has_weights || !has_weights(problem_) || problem_.routing == LILY_ROUTING_FIXED || count == 0)
      return;
    add(plan_.launches, {Step::kWriteWeights, {}, {}, {ceil_divide(count, kThreads), 1, 1}, 0});
  }

  void add_decode() {
    // The tile of the smallest rank gives the most blocks; results do not depend on the tile's rank.
    constexpr int kTile = 16;
    plan_.tile_tokens = kTile;
    const ShrinkRow *row = find_shrink_row(rows_, kTile, kTile);
    const Grid blocks = {ceil_divide(tokens_, kTile), ceil_divide(rank_, kTile), plan_.depth_splits};
    add(plan_.launches, {Step::kDecodeShrink, row->tile, {}, blocks, row->bytes});
    const Tile tile = decode_row_->tile;
    add(plan_.launches, {Step::kDecode,
                         tile,
                         {},
                         {ceil_divide(d_out_, tile.block_n), 1, 1},
                         decode_row_->bytes(rank_, experts_, static_cast<int>(problem_.groups))});
  }

  void add_shrink() {
    const ShrinkRow *row = find_shrink_row(rows_, block_n_, plan_.tile_tokens);
    const int row_tiles = ceil_divide(rank_, block_n_);
    const int routing = row->product_bytes + route_bytes(row->tile.block_m, experts_, rank_);
    const int bytes = routes_ && row_tiles == 1 ? std::max(row->bytes, routing) : row->bytes;
    add(plan_.launches, {Step::kShrink, row->tile, {}, {plan_.token_tiles, row_tiles, 1}, bytes});
  }

  void add_large_shrink() {
    const Walk walk = large_walk(rows_, device_, {0, tokens_, rank_, 0}, true, false);
    add(plan_.launches,
        {Step::kLargeShrink, walk.tile, {}, {walk.token_tiles, walk.column_tiles, 1}, walk.shared_bytes});
    plan_.is_supported = plan_.is_supported && walk.column_tiles != 0;
  }

  int expand_rows() const { return plan_.has_token_weights ? experts_ * rank_ : rank_; }

  void add_large_expand() {
    if (writes_c()) add(plan_.launches, {Step::kCombine, {}, {}, combine_grid(rank_, d_out_), 0});
    const Walk walk = large_walk(rows_, device_, {expand_rows(), tokens_, d_out_, experts_}, true, false);
    add(plan_.launches, {Step::kLargeExpand, walk.tile, {}, {walk.expand_blocks(), 1, 1}, bytes_with_router(walk, 0)});
    plan_.is_supported = plan_.is_supported && walk.column_tiles != 0;
  }

  void add_expand() {
    const Walk walk = strip_walk(rows_, device_, {expand_rows(), tokens_, d_out_, experts_}, true, false);
    plan_.column_tiles = walk.column_tiles;
    plan_.split_tokens = walk.split_tokens;
    add(plan_.launches, {Step::kExpand, walk.tile, {}, {walk.column_tiles * walk.splits, 1, 1}, walk.shared_bytes});
    plan_.is_supported = plan_.is_supported && walk.column_tiles != 0;
  }

  static constexpr int kFloat = sizeof(float);

  const lily_problem &problem_;
  const ForwardOperands &operands_;
  const Device &device_;
  const TileRows &rows_;
  const int tokens_, rank_, experts_, d_out_;
  const bool routes_, is_large_;
  const int block_n_;
  const DecodeRow *decode_row_ = nullptr;
  ForwardPlan plan_ = {};
};

}  // namespace

ForwardPlan plan_forward(const lily_problem &problem, const ForwardOperands &operands, const Device &device) {
  return ForwardPlanner(problem, operands, device).plan();
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
