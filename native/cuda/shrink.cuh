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

constexpr int kLineBytes = 128, kChunkLines = 8, kHalves = 2;

// Numbers of the long dimension that one partial sum is of.
template <typename Scalar>
constexpr int kChunk = kChunkLines * kLineBytes / static_cast<int>(sizeof(Scalar));

struct ShrinkOperands {
  Operand x;        // tokens x depth
  Operand w;        // rows x depth
  int tokens;       // M
  int depth;        // d
  int rows;         // r, or E r
  int tile_tokens;  // of a block, at most the tile's rows: few tokens still make many blocks
};

template <typename Engine_, int kTokens_, int kRank_>
struct ShrinkTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kTokens = kTokens_, kRank = kRank_;
  static constexpr int kDepth = kLineBytes / static_cast<int>(sizeof(Scalar));  // one line per row and stage
  // The smallest tile has few copies under way with 4; with 8 it asks for a whole chunk at once. The largest fit into
  // the 64 KiB of Turing with 3.
  static constexpr int kStages = kTokens + kRank <= 32 ? 8 : kTokens + kRank >= 128 ? 3 : 4;
  static constexpr int kStage = (kTokens + kRank) * kDepth;  // numbers
  static constexpr int kProductPitch = kRank + 8;            // rows of a fragment meet in no bank
  static constexpr int kProduct = kTokens * kProductPitch;   // floats
  static constexpr int kRing = kStages * kStage * static_cast<int>(sizeof(Scalar));
  static constexpr int kBytes = kRing > kProduct * 4 ? kRing : kProduct * 4;
  // Parts of warps, as square as they can be: the fewest fragments per product. Of the smallest tile two warps only
  // copy.
  static constexpr int kWarpsDown = kRank < 64 ? kTokens / 16 : (kTokens + 31) / 32;
  static constexpr int kWarpsAcross = kWarps / kWarpsDown < kRank / 8 ? kWarps / kWarpsDown : kRank / 8;
  static constexpr int kM = kTokens / 16 / kWarpsDown, kN = kRank / 8 / kWarpsAcross;
  static constexpr int kHalf = kDepth / kHalves;
  static_assert(kHalf % Engine::kDepth == 0 && kM * kWarpsDown * 16 == kTokens);
};

// Lines [first, last) of the long dimension.
struct Lines {
  int first, last;
};

template <typename Tile>
__device__ inline Lines all_lines(const ShrinkOperands &operands) {
  return {0, (operands.depth + Tile::kDepth - 1) / Tile::kDepth};
}

// Leaves the product of tokens [token, token_end) and rows [row, row + kRank) over `lines`, which begin with a chunk,
// in shared memory, kProductPitch floats a row; all threads may read it at once. Padding rows and columns hold zeros.
template <typename Tile>
__device__ inline const float *shrink(char *shared, const ShrinkOperands &operands, int token, int token_end, int row,
                                      const Lines &lines) {
  using Scalar = typename Tile::Scalar;
  auto *ring = reinterpret_cast<Scalar *>(shared);
  auto *product = reinterpret_cast<float *>(shared);
  const int warp = threadIdx.x / kWarp;
  const int down = warp / Tile::kWarpsAcross * Tile::kM * 16, across = warp % Tile::kWarpsAcross * Tile::kN * 8;
  const bool owns = warp < Tile::kWarpsDown * Tile::kWarpsAcross && down < token_end - token;
  const int steps = lines.last - lines.first;
  const auto fill = [&](int step) {
    if (step < steps) {
      Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
      Scalar *stage_w = stage_x + Tile::kTokens * Tile::kDepth;
      const int column = (lines.first + step) * Tile::kDepth;
      stage_activations<Scalar, Tile::kTokens, Tile::kDepth>(stage_x, operands.x,
                                                             {token, token_end, column, operands.depth});
      stage<Scalar, Tile::kRank, Tile::kDepth>(stage_w, operands.w, {row, operands.rows, column, operands.depth});
    }
    copy_commit();
  };

  Accumulators<Tile::kM, Tile::kN> sum, half[kHalves];
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
    const Scalar *stage_w = stage_x + Tile::kTokens * Tile::kDepth;
#pragma unroll
    for (int i = 0; i < kHalves; ++i)
      multiply<typename Tile::Engine, Along::kDepth, Tile::kDepth, Along::kDepth, Tile::kDepth>(
          half[i], stage_x, down, stage_w, across, i * Tile::kHalf, Tile::kHalf / Tile::Engine::kDepth);
    if (step % kChunkLines == kChunkLines - 1 || step == steps - 1) {
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
