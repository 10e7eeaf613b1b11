// The product that shrinks: a few tokens by all of a long dimension, against the rows of a small matrix.
//
//   product[t][n] = sum_d x[t][d] w[n][d]
//
// Forward it is h = x A^T, backward q = dy C^T and v = dy B^T. A block owns its tokens and streams both operands
// through a ring of shared memory; each of its warps owns a part of the tile.
//
// The order of the sum is the same in every kernel that forms it, so that a number depends neither on the tile, nor on
// the other tokens, nor on whether blocks share the long dimension: it is cut into chunks of 8 lines; of each chunk two
// sums are kept, one for each half of a line; these are added, and the chunks in order after them. Shorter chains of
// products that wait for each other are what the halves are for besides.
//
// Passes over memory: x once; w once per block, from the second-level cache.
#pragma once

#include "stage.cuh"

namespace lily::cuda {

constexpr int kTileBytes = 128, kSplitTiles = 8, kHalves = 2;

// Numbers of the long dimension that one partial sum is of.
template <typename Scalar>
constexpr int kSplitDepth = kSplitTiles * kTileBytes / static_cast<int>(sizeof(Scalar));

struct ShrinkOperands {
  Operand x;        // tokens x depth
  Operand w;        // rows x depth
  int tokens;       // M
  int depth;        // d
  int rows;         // r, or E r
  int tile_tokens;  // of a block, at most the tile's rows: few tokens still make many blocks
};

template <typename Engine_, int kBlockM_, int kBlockN_>
struct ShrinkTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_;
  static constexpr int kBlockK = kTileBytes / static_cast<int>(sizeof(Scalar));  // one line per row and stage
  // The smallest tile has few copies under way with 4; with 8 it asks for a whole chunk at once. The largest fit into
  // the 64 KiB of Turing with 3.
  static constexpr int kStages = kBlockM + kBlockN <= 32 ? 8 : kBlockM + kBlockN >= 128 ? 3 : 4;
  static constexpr int kStage = (kBlockM + kBlockN) * kBlockK;  // numbers
  static constexpr int kProductPitch = kBlockN + 8;             // rows of a fragment meet in no bank
  static constexpr int kProduct = kBlockM * kProductPitch;      // floats
  static constexpr int kRing = kStages * kStage * static_cast<int>(sizeof(Scalar));
  static constexpr int kBytes = kRing > kProduct * 4 ? kRing : kProduct * 4;
  // Parts of warps, as square as they can be: the fewest fragments per product. Of the smallest tile two warps only
  // copy.
  static constexpr int kWarpsM = kBlockN < 64 ? kBlockM / 16 : (kBlockM + 31) / 32;
  static constexpr int kWarpsN = kWarps / kWarpsM < kBlockN / 8 ? kWarps / kWarpsM : kBlockN / 8;
  static constexpr int kWarpM = kBlockM / 16 / kWarpsM, kWarpN = kBlockN / 8 / kWarpsN;
  static constexpr int kHalf = kBlockK / kHalves;
  static_assert(kHalf % Engine::kStepK == 0 && kWarpM * kWarpsM * 16 == kBlockM);
};

// Lines [first, last) of the long dimension.
struct DepthTiles {
  int first, last;
};

template <typename Tile>
__device__ inline DepthTiles all_depth_tiles(const ShrinkOperands &operands) {
  return {0, (operands.depth + Tile::kBlockK - 1) / Tile::kBlockK};
}

// Leaves the product of tokens [token, token_end) and rows [row, row + kRank) over `lines`, which begin with a chunk,
// in shared memory, kProductPitch floats a row; all threads may read it at once. Padding rows and columns hold zeros.
template <typename Tile>
__device__ inline const float *shrink(char *shared, const ShrinkOperands &operands, int token, int token_end, int row,
                                      const DepthTiles &tiles) {
  using Scalar = typename Tile::Scalar;
  auto *ring = reinterpret_cast<Scalar *>(shared);
  auto *product = reinterpret_cast<float *>(shared);
  const int warp = threadIdx.x / kWarp;
  const int down = warp / Tile::kWarpsN * Tile::kWarpM * 16, across = warp % Tile::kWarpsN * Tile::kWarpN * 8;
  const bool owns = warp < Tile::kWarpsM * Tile::kWarpsN && down < token_end - token;
  const int steps = tiles.last - tiles.first;
  const auto fill = [&](int step) {
    if (step < steps) {
      Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
      Scalar *stage_w = stage_x + Tile::kBlockM * Tile::kBlockK;
      const int column = (tiles.first + step) * Tile::kBlockK;
      stage_activations<Scalar, Tile::kBlockM, Tile::kBlockK>(stage_x, operands.x,
                                                              {token, token_end, column, operands.depth});
      stage<Scalar, Tile::kBlockN, Tile::kBlockK>(stage_w, operands.w, {row, operands.rows, column, operands.depth});
    }
    copy_commit();
  };

  Accumulators<Tile::kWarpM, Tile::kWarpN> sum, half[kHalves];
  clear(sum);
#pragma unroll
  for (int i = 0; i < kHalves; ++i) clear(half[i]);
  for (int step = 0; step < Tile::kStages - 1; ++step) fill(step);
  for (int step = 0; step < steps; ++step) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    fill(step + Tile::kStages - 1);
    if (!owns) continue;
    const Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
    const Scalar *stage_w = stage_x + Tile::kBlockM * Tile::kBlockK;
#pragma unroll
    for (int i = 0; i < kHalves; ++i)
      multiply<typename Tile::Engine, Along::kDepth, Tile::kBlockK, Along::kDepth, Tile::kBlockK>(
          half[i], stage_x, down, stage_w, across, i * Tile::kHalf, Tile::kHalf / Tile::Engine::kStepK);
    if (step % kSplitTiles == kSplitTiles - 1 || step == steps - 1) {
      add(half[0], half[1]);
      add(sum, half[0]);
#pragma unroll
      for (int i = 0; i < kHalves; ++i) clear(half[i]);
    }
  }
  copy_wait<0>();
  __syncthreads();
  if (owns) {
    for_each_pair(sum, [&](int m, int n, float first, float second) {
      store_pair(product + (down + m) * Tile::kProductPitch + across + n, first, second);
    });
  }
  __syncthreads();
  return product;
}

}  // namespace lily::cuda
