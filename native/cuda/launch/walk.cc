#include "cuda/launch/walk.h"

namespace lily::cuda {
namespace {

int strip_block_k(const TileRows &rows, int columns) {
  int best = 0, largest = 0;
  for (const StripRow &row : rows.strip) {
    if (row.tile.block_k >= columns && (best == 0 || row.tile.block_k < best)) best = row.tile.block_k;
    largest = std::max(largest, row.tile.block_k);
  }
  return best != 0 ? best : largest;
}

}  // namespace

int shrink_block_n(const TileRows &rows, int needed) {
  int best = 0, largest = 0;
  for (const ShrinkRow &row : rows.shrink) {
    if (row.tile.block_n >= needed && (best == 0 || row.tile.block_n < best)) best = row.tile.block_n;
    largest = std::max(largest, row.tile.block_n);
  }
  return best != 0 ? best : largest;
}

int most_shrink_tokens(const TileRows &rows, const Device &device, int block_n) {
  int most = 0;
  for (const ShrinkRow &row : rows.shrink)
    if (row.tile.block_n == block_n && row.bytes <= most_shared_bytes(device)) most = std::max(most, row.tile.block_m);
  return most;
}

const ShrinkRow *find_shrink_row(const TileRows &rows, int block_n, int tile_tokens) {
  for (const ShrinkRow &row : rows.shrink)
    if (row.tile.block_n == block_n && tile_tokens <= row.tile.block_m) return &row;
  return nullptr;
}

int shrink_tokens(int most, int tokens, const Device &device) {
  int count = most;
  while (count > 8 && ceil_divide(tokens, count) < min_blocks(device)) count /= 2;
  return count;
}

Split split_tokens(int tokens, int tile_tokens, int column_tiles, int blocks) {
  const int tiles = std::max(1, ceil_divide(tokens, tile_tokens));
  const int target_count = std::clamp(ceil_divide(blocks, column_tiles), 1, tiles);
  const int per_split = ceil_divide(tiles, target_count);
  return {per_split * tile_tokens, ceil_divide(tiles, per_split)};
}

Walk strip_walk(const TileRows &rows, const Device &device, const WalkShape &shape, bool expands, bool has_outer,
                int block_k) {
  if (block_k == 0) block_k = strip_block_k(rows, shape.lhs_columns);
  Walk best = {};
  for (; best.column_tiles == 0 && block_k >= 16; block_k /= 2) {
    for (const StripRow &row : rows.strip) {
      if (row.tile.block_k != block_k || (expands && has_outer && !row.computes_both)) continue;
      Walk walk = {};
      walk.tile = row.tile;
      walk.column_tiles = ceil_divide(shape.columns, row.tile.block_n);
      walk.row_tiles = ceil_divide(shape.lhs_columns, block_k);
      const int independent = walk.column_tiles * (expands ? 1 : walk.row_tiles);
      // With an outer product every split costs partial sums. Without one it costs combining C once more, and two
      // blocks per multiprocessor have more loads in flight than one.
      const int target_count = (has_outer ? 1 : 2) * min_blocks(device);
      const Split split = split_tokens(shape.tokens, row.tile.block_m, independent, target_count);
      walk.splits = split.count;
      walk.split_tokens = split.tokens;
      walk.shared_bytes = row.bytes(expands, has_outer, walk.row_tiles > 1);
      if (walk.shared_bytes > most_shared_bytes(device)) continue;
      if (best.column_tiles == 0 || (has_outer && walk.splits < best.splits)) best = walk;
    }
  }
  return best;
}

Walk large_walk(const TileRows &rows, const Device &device, const WalkShape &shape, bool expands, bool has_outer) {
  constexpr int kFewTokens = 32;
  constexpr int64_t kLeastDepth = 512;  // writing and adding partial sums costs as much as a few hundred tokens
  Walk best = {};
  int64_t most = 0;
  for (const LargeRow &row : rows.large) {
    const int bytes = row.bytes(shape.experts);
    if (bytes > most_shared_bytes(device) || most >= min_blocks(device) ||
        (row.tile.block_m < kFewTokens && shape.tokens > kFewTokens && best.column_tiles != 0))
      continue;
    Walk walk = {row.tile,
                 bytes,
                 ceil_divide(shape.columns, row.tile.block_n),
                 ceil_divide(shape.lhs_columns, row.tile.block_m),
                 ceil_divide(shape.tokens, row.tile.block_m),
                 1,
                 0};
    const int64_t expand = expands ? walk.expand_blocks() : 0, outer = has_outer ? walk.outer_blocks() : 0;
    most = expand + outer;
    const int64_t share = (expand * shape.lhs_columns + outer * shape.tokens) / min_blocks(device);
    walk.split_tokens = round_up(std::max(share, kLeastDepth), row.tile.block_k);
    walk.splits = std::max(ceil_divide(shape.tokens, walk.split_tokens), 1);
    best = walk;
  }
  return best;
}

}  // namespace lily::cuda
