// Selects rows of the tile table: what the launches of one engine share.
#pragma once

#include "cuda/launch.h"
#include "cuda/tile.cuh"

namespace lily::cuda {

// Upper bound on a kernel's static shared memory.
constexpr int kStaticBytes = 1024;

// How a strip kernel iterates over its matrices.
struct Walk {
  int block_k, block_n;  // BLOCK_K and BLOCK_N of the tile
  int column_tiles, splits, row_tiles;
  int split_tokens;
  int bytes;

  int grid() const { return column_tiles * splits * row_tiles; }
};

struct WalkShape {
  int lhs_columns, tokens, columns, experts;
};

// Larger ranks use the kernels of large.cuh.
constexpr int kLargeRank = 128;

// How a kernel of large.cuh iterates over its matrices.
struct LargeWalk {
  int block_m, block_n, bytes;  // BLOCK_M and BLOCK_N of the tile; bytes of shared memory
  int column_tiles;
  int row_tiles, token_tiles;
  int splits, split_tokens;  // of the tokens, in outer blocks

  int outer_blocks() const { return column_tiles * row_tiles * splits; }
  int expand_blocks() const { return column_tiles * token_tiles; }
};

template <typename Engine>
struct Rows {
  using Scalar = typename Engine::Scalar;
  using Shrink = typename Tiles<Engine>::Shrink;
  using Strip = typename Tiles<Engine>::Strip;
  using Once = typename Tiles<Engine>::Once;
  using Token = typename Tiles<Engine>::Token;
  using Decode = typename Tiles<Engine>::Decode;
  using Large = typename Tiles<Engine>::Large;
  // Elements in 16 bytes: rows of workspace matrices begin at multiples of it.
  static constexpr int kVector = 16 / static_cast<int>(sizeof(Scalar));

  // The largest BLOCK_M of the shrink tiles with this BLOCK_N.
  static int most_tokens(int block_n) {
    int most = 0;
    for_each_row(Shrink{}, [&](auto row) {
      if (row.kBlockN == block_n) most = std::max(most, row.kBlockM);
    });
    return most;
  }

  static lily_status no_tile() {
    return fail(LILY_ERROR_UNSUPPORTED, "no tile fits into the shared memory of this device");
  }

  // Calls visit(row) with the first shrink tile that has this BLOCK_N and holds `tile_tokens` tokens. Tiles of few
  // tokens come first in the table.
  template <typename Visit>
  static lily_status with_shrink(int block_n, int tile_tokens, const Visit &visit) {
    lily_status status = LILY_OK;
    const bool found = with_row(
        Shrink{}, [&](auto row) { return row.kBlockN == block_n && tile_tokens <= row.kBlockM; },
        [&](auto row) { status = visit(row); });
    return found ? status : no_tile();
  }

  template <typename Visit>
  static lily_status with_strip(const Walk &walk, const Visit &visit) {
    lily_status status = LILY_OK;
    const bool found = with_row(
        Strip{}, [&](auto row) { return row.kBlockK == walk.block_k && row.kBlockN == walk.block_n; },
        [&](auto row) { status = visit(row); });
    return found ? status : no_tile();
  }

  // Selects the tile of a strip kernel: BLOCK_K as given or, with 0, the smallest that holds all columns of lhs;
  // BLOCK_N = 32 instead of 64 if that saves splits of a gradient; a smaller BLOCK_K if shared memory does not suffice.
  static Walk walk(const Device &device, const WalkShape &shape, bool expands, bool has_outer, int block_k = 0) {
    if (block_k == 0) block_k = fitting_size(Strip{}, shape.lhs_columns, [](auto row) { return row.kBlockK; });
    Walk best = {};
    for (; best.column_tiles == 0 && block_k >= 16; block_k /= 2) {
      for_each_row(Strip{}, [&](auto row) {
        using Tile = decltype(row);
        if (Tile::kBlockK != block_k) return;
        Walk walk = {};
        walk.block_k = block_k;
        walk.block_n = Tile::kBlockN;
        walk.column_tiles = ceil_divide(shape.columns, Tile::kBlockN);
        walk.row_tiles = ceil_divide(shape.lhs_columns, block_k);
        const int independent = walk.column_tiles * (expands ? 1 : walk.row_tiles);
        // With an outer product every split costs partial sums. Without one it costs combining C once more, and two
        // blocks per multiprocessor have more loads in flight than one.
        const int target_count = (has_outer ? 1 : 2) * min_blocks(device);
        const Split split = split_tokens(shape.tokens, Tile::kBlockM, independent, target_count);
        walk.splits = split.count;
        walk.split_tokens = split.tokens;
        walk.bytes = Tile::bytes(expands, has_outer, walk.row_tiles > 1, shape.experts);
        if (walk.bytes > device.shared_bytes_per_block - kStaticBytes) return;
        if (best.column_tiles == 0 || (has_outer && walk.splits < best.splits)) best = walk;
      });
    }
    return best;
  }

  // Selects the largest tile that gives enough blocks. The tile with few rows is for few tokens, or if nothing larger
  // fits (on Turing with many experts). Outer blocks iterate over tokens: tokens are split if one outer block would run
  // longer than an average block's share of the work.
  static LargeWalk large_walk(const Device &device, const WalkShape &shape, bool expands, bool has_outer) {
    constexpr int kFewTokens = 32;
    constexpr int64_t kLeastDepth = 512;  // writing and adding partial sums costs as much as a few hundred tokens
    LargeWalk best = {};
    int most = 0;
    for_each_row(Large{}, [&](auto row) {
      using Tile = decltype(row);
      const int bytes = Tile::bytes(shape.experts);
      if (bytes > device.shared_bytes_per_block - kStaticBytes || most >= min_blocks(device) ||
          (Tile::kBlockM < kFewTokens && shape.tokens > kFewTokens && best.block_m != 0))
        return;
      LargeWalk walk = {Tile::kBlockM,
                        Tile::kBlockN,
                        bytes,
                        ceil_divide(shape.columns, Tile::kBlockN),
                        ceil_divide(shape.lhs_columns, Tile::kBlockM),
                        ceil_divide(shape.tokens, Tile::kBlockM),
                        1,
                        0};
      const int64_t expand = expands ? walk.expand_blocks() : 0, outer = has_outer ? walk.outer_blocks() : 0;
      most = static_cast<int>(expand + outer);
      const int64_t share = (expand * shape.lhs_columns + outer * shape.tokens) / min_blocks(device);
      walk.split_tokens = round_up(std::max(share, kLeastDepth), Tile::kBlockK);
      walk.splits = std::max(ceil_divide(shape.tokens, walk.split_tokens), 1);
      best = walk;
    });
    return best;
  }

  template <typename Visit>
  static lily_status with_large(const LargeWalk &walk, const Visit &visit) {
    lily_status status = LILY_OK;
    const bool found = with_row(
        Large{}, [&](auto row) { return row.kBlockM == walk.block_m && row.kBlockN == walk.block_n; },
        [&](auto row) { status = visit(row); });
    return found ? status : no_tile();
  }

  // The shrinking product, tokens x rows.
  static lily_status launch_large_shrink(const LargeShrink &call, const Device &device, cudaStream_t stream) {
    const ShrinkOperands &from = call.operands;
    const WalkShape shape = {0, from.tokens, from.rows, call.d_hidden.router.experts};
    return with_large(large_walk(device, shape, true, false), [&](auto row) {
      using Tile = decltype(row);
      const dim3 blocks(ceil_divide(from.tokens, Tile::kBlockM), ceil_divide(from.rows, Tile::kBlockN));
      return launch(large_shrink<Tile>, "launching the large_shrink kernel", blocks, Tile::bytes(shape.experts), stream,
                    call);
    });
  }

  static lily_status launch_large_strip(const LargeStrip &call, const LargeWalk &walk, cudaStream_t stream) {
    if (walk.block_m == 0) return no_tile();
    const int grid =
        call.outer_blocks + call.expand_blocks + call.combine_blocks + call.router.splits * call.router.element_tiles;
    if (grid == 0) return LILY_OK;
    const int router_bytes = lhs_scratch(kRouterTile, call.router.router.experts) * static_cast<int>(sizeof(float));
    return with_large(walk, [&](auto row) {
      return launch(large_strip<decltype(row)>, "launching the large_strip kernel", dim3(grid),
                    std::max(walk.bytes, router_bytes), stream, call);
    });
  }
};

}  // namespace lily::cuda
