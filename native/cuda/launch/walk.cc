#include "cuda/launch/walk.h"

namespace lily::cuda {
namespace {

// Without a tile if a grid could not have so many blocks.
Walk checked(const Walk &walk) {
  constexpr int64_t kMostBlocks = 1 << 30;
  return int64_t{walk.column_tiles} * walk.row_tiles <= kMostBlocks / walk.splits ? walk : Walk{};
}

}  // namespace

const ShrinkRow *find_shrink_row(const TileRows &rows, int block_n, int tile_tokens) {
  for (const ShrinkRow &row : rows.shrink)
    if (row.tile.block_n == block_n && tile_tokens <= row.tile.block_m) return &row;
  return nullptr;
}

Walk strip_walk(const StripRow &row, const Device &device, const WalkShape &shape, bool expands, bool has_outer,
                int split_tokens) {
  const int row_tiles = ceil_divide(shape.lhs_columns, row.tile.block_k);
  const int bytes = row.bytes(expands, has_outer, row_tiles > 1);
  if (bytes > most_shared_bytes(device)) return {};
  split_tokens = round_up(split_tokens, row.tile.block_m);
  return checked({row.tile, bytes, ceil_divide(shape.columns, row.tile.block_n), row_tiles, row.tile.block_k,
                  std::max(1, ceil_divide(shape.tokens, split_tokens)), split_tokens});
}

Walk mix_walk(const MixRow &row, const Device &device, const WalkShape &shape, int rank, bool b_stays,
              int split_tokens) {
  const int bytes = row.bytes(shape.experts, rank, b_stays);
  if (bytes > most_shared_bytes(device)) return {};
  split_tokens = round_up(split_tokens, row.tile.block_m);
  return checked({row.tile, bytes, ceil_divide(shape.columns, row.tile.block_n),
                  ceil_divide(shape.lhs_columns, row.tile.block_k), row.tile.block_k,
                  std::max(1, ceil_divide(shape.tokens, split_tokens)), split_tokens});
}

Walk once_walk(const OnceRow &row, const Device &device, const WalkShape &shape, int split_tokens) {
  if (row.tile.block_k < shape.lhs_columns || row.bytes > most_shared_bytes(device)) return {};
  split_tokens = round_up(split_tokens, row.tile.block_m);
  return checked({row.tile, row.bytes, ceil_divide(shape.columns, row.tile.block_n), 1, row.tile.block_k,
                  std::max(1, ceil_divide(shape.tokens, split_tokens)), split_tokens});
}

Walk large_walk(const LargeRow &row, const Device &device, const WalkShape &shape, int tile_rows, int split_tokens) {
  if (row.outer_bytes > most_shared_bytes(device)) return {};
  split_tokens = round_up(split_tokens, row.tile.block_k);
  return checked({row.tile, row.outer_bytes, ceil_divide(shape.columns, row.tile.block_n),
                  ceil_divide(shape.lhs_columns, tile_rows), tile_rows,
                  std::max(1, ceil_divide(shape.tokens, split_tokens)), split_tokens});
}

}  // namespace lily::cuda
