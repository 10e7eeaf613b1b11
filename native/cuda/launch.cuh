// Picks rows of the tile table: what all launches of one engine have in common.
#pragma once

#include "cuda/launch.h"
#include "cuda/tile.cuh"

namespace lily::cuda {

// What a kernel has of shared memory beside the part whose size the launch gives.
constexpr int kStaticBytes = 1024;

// How a strip kernel goes over its matrices.
struct Walk {
  int rank, columns;  // of the tile
  int slices, splits, blocks;
  int split_tokens;
  int bytes;

  int grid() const { return slices * splits * blocks; }
};

struct WalkShape {
  int left_columns, tokens, columns, experts;
};

template <typename Engine>
struct Rows {
  using Scalar = typename Engine::Scalar;
  using Shrink = typename Tiles<Engine>::Shrink;
  using Strip = typename Tiles<Engine>::Strip;
  using Once = typename Tiles<Engine>::Once;
  using Token = typename Tiles<Engine>::Token;
  // Numbers in 16 bytes: rows of the workspace begin at multiples of it.
  static constexpr int kVector = 16 / static_cast<int>(sizeof(Scalar));

  // The most tokens of a shrink tile of this rank.
  static int most_tokens(int rank) {
    int most = 0;
    for_each_row(Shrink{}, [&](auto row) {
      if (row.kRank == rank) most = std::max(most, row.kTokens);
    });
    return most;
  }

  // Calls take(row) with the shrink tile; those of few tokens come first and serve all counts that they hold.
  template <typename Take>
  static lily_status with_shrink(int rank, int tile_tokens, const Take &take) {
    lily_status status = LILY_OK;
    with_row(
        Shrink{}, [&](auto row) { return row.kRank == rank && tile_tokens <= row.kTokens; },
        [&](auto row) { status = take(row); });
    return status;
  }

  template <typename Take>
  static lily_status with_strip(const Walk &walk, const Take &take) {
    lily_status status = LILY_OK;
    const bool found = with_row(
        Strip{}, [&](auto row) { return row.kRank == walk.rank && row.kColumns == walk.columns; },
        [&](auto row) { status = take(row); });
    return found ? status : fail(LILY_ERROR_UNSUPPORTED, "no tile fits into the shared memory of this device");
  }

  // The tile of a strip: the rank as it is asked for, or with 0 the smallest that holds the left operand; 32 columns in
  // place of 64 where that saves parts of a gradient; smaller ranks where shared memory does not suffice.
  static Walk walk(const Device &device, const WalkShape &shape, bool expands, bool has_outer, int rank = 0) {
    if (rank == 0) rank = fitting_rank(Strip{}, shape.left_columns);
    Walk best = {};
    for (; best.slices == 0 && rank >= 16; rank /= 2) {
      for_each_row(Strip{}, [&](auto row) {
        using Tile = decltype(row);
        if (Tile::kRank != rank) return;
        Walk walk = {};
        walk.rank = rank;
        walk.columns = Tile::kColumns;
        walk.slices = ceil_divide(shape.columns, Tile::kColumns);
        walk.blocks = ceil_divide(shape.left_columns, rank);
        const int independent = walk.slices * (expands ? 1 : walk.blocks);
        const Split split = split_tokens(shape.tokens, Tile::kTokens, independent, device);
        walk.splits = split.count;
        walk.split_tokens = split.tokens;
        walk.bytes = Tile::bytes(expands, has_outer, walk.blocks > 1, shape.experts);
        if (walk.bytes > device.shared_bytes_per_block - kStaticBytes) return;
        if (best.slices == 0 || (has_outer && walk.splits < best.splits)) best = walk;
      });
    }
    return best;
  }
};

}  // namespace lily::cuda
