// The product that shrinks: a few tokens by all of a long dimension, against the rows of a small matrix.
//
//   product[t][n] = sum_d x[t][d] w[n][d]
//
// Forward it is h = x A^T, backward q = dy C^T and v = dy B^T. A block owns its tokens and streams both operands
// through a ring of shared memory; its warps share each step along the summed dimension, a quarter each, and their four
// sums are added in order at the end. So a number depends neither on the size of the tile nor on the other tokens.
//
// Passes over memory: x once; w once per block, from the second-level cache.
#pragma once

#include "stage.cuh"

namespace lily::cuda {

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
  static constexpr int kDepth = 128 / static_cast<int>(sizeof(Scalar));  // one line of memory per row and stage
  static constexpr int kStages = 4;
  static constexpr int kStage = (kTokens + kRank) * kDepth;  // numbers
  static constexpr int kProductPitch = kRank + 8;            // rows of a fragment meet in no bank
  static constexpr int kProduct = kTokens * kProductPitch;   // floats
  static constexpr int kBytes = kStages * kStage * static_cast<int>(sizeof(Scalar)) > kWarps *kProduct * 4
                                    ? kStages *kStage *static_cast<int>(sizeof(Scalar))
                                    : kWarps *kProduct * 4;
  static constexpr int kWarpDepth = kDepth / kWarps;
  static_assert(kWarpDepth % Engine::kDepth == 0);
};

// Leaves the product of tokens [token, token_end) and rows [row, row + kRank) in shared memory, kProductPitch floats a
// row; all threads may read it at once. Padding rows and columns hold zeros.
template <typename Tile>
__device__ inline const float *shrink(char *shared, const ShrinkOperands &operands, int token, int token_end, int row) {
  using Scalar = typename Tile::Scalar;
  auto *ring = reinterpret_cast<Scalar *>(shared);
  auto *product = reinterpret_cast<float *>(shared);
  const int warp = threadIdx.x / kWarp;
  const int steps = (operands.depth + Tile::kDepth - 1) / Tile::kDepth;
  const auto fill = [&](int step) {
    if (step < steps) {
      Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
      Scalar *stage_w = stage_x + Tile::kTokens * Tile::kDepth;
      const int column = step * Tile::kDepth;
      stage<Scalar, Tile::kTokens, Tile::kDepth>(stage_x, operands.x, {token, token_end, column, operands.depth});
      stage<Scalar, Tile::kRank, Tile::kDepth>(stage_w, operands.w, {row, operands.rows, column, operands.depth});
    }
    copy_commit();
  };

  Accumulators<Tile::kTokens / 16, Tile::kRank / 8> sum;
  clear(sum);
  for (int step = 0; step < Tile::kStages - 1; ++step) fill(step);
  for (int step = 0; step < steps; ++step) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    fill(step + Tile::kStages - 1);
    const Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
    const Scalar *stage_w = stage_x + Tile::kTokens * Tile::kDepth;
    multiply<typename Tile::Engine, Along::kDepth, Tile::kDepth, Along::kDepth, Tile::kDepth>(
        sum, stage_x, 0, stage_w, 0, warp * Tile::kWarpDepth, Tile::kWarpDepth / Tile::Engine::kDepth);
  }
  copy_wait<0>();
  __syncthreads();

  float *own = product + warp * Tile::kProduct;
  for_each_pair(sum, [&](int m, int n, float first, float second) {
    *reinterpret_cast<float2 *>(own + m * Tile::kProductPitch + n) = make_float2(first, second);
  });
  __syncthreads();
  for (int i = threadIdx.x; i < Tile::kTokens * Tile::kRank / 4; i += kThreads) {
    const int m = i / (Tile::kRank / 4), n = i % (Tile::kRank / 4) * 4;
    float4 *total = reinterpret_cast<float4 *>(product + m * Tile::kProductPitch + n);
    float4 value = *total;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      const float4 part = *reinterpret_cast<const float4 *>(product + w * Tile::kProduct + m * Tile::kProductPitch + n);
      value.x += part.x;
      value.y += part.y;
      value.z += part.z;
      value.w += part.w;
    }
    *total = value;
  }
  __syncthreads();
  return product;
}

}  // namespace lily::cuda
