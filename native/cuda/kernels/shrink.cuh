// The shrinking product: a few tokens times a long dimension d, against the rows of a small matrix. Symbols as in
// docs/math.md.
//
//   product[t, n] = sum_k x[t, k] w[n, k]      (forward h = x A^T; backward q = dy C^T, v = dy B^T)
//
// Each block owns BLOCK_M tokens and BLOCK_N rows of w, and streams both operands through a ring of kStages stages in
// shared memory. A stage has a tile of 128 bytes per row, or half of one. Each warp owns a part of the BLOCK_M x
// BLOCK_N product.
//
// Every kernel that computes this sum adds in the same order, so a result depends neither on the tile shape, nor on the
// other tokens, nor on whether blocks split the long dimension. The dimension is divided into splits of kSplitTiles
// tiles. Each split has two sums, one for each half of every tile's BLOCK_K; these two are added, then the splits in
// order. The halves also shorten the chains of dependent FMAs.
//
// Global memory traffic: x once; w once per block, from L2. The copies of the next stages overlap with the current
// tile's MMAs.
#pragma once

#include "cuda/tiles/stage.cuh"

namespace lily::cuda {

struct ShrinkOperands {
  Operand x;        // tokens x depth
  Operand w;        // rows x depth
  int tokens;       // M
  int depth;        // d
  int rows;         // r, or E r
  int tile_tokens;  // per block, at most kBlockM: fewer tokens per block give more blocks
};

// Stages [first, last) of the long dimension.
struct DepthTiles {
  int first, last;
};

template <typename Tile>
__device__ inline DepthTiles all_depth_tiles(const ShrinkOperands &operands) {
  return {0, (operands.depth + Tile::kBlockK - 1) / Tile::kBlockK};
}

// Computes the product of tokens [token, token_end) and rows [row, row + kBlockN) over `tiles`. Returns it in shared
// memory, kProductPitch floats per row, readable by all threads. `tiles` must begin with a split. Padding rows and
// columns are zero. kDrops: there may be dropout of x.
template <typename Tile, bool kDrops = false>
__device__ inline const float *shrink(char *shared, const ShrinkOperands &operands, int token, int token_end, int row,
                                      const DepthTiles &tiles, const Dropout &dropout = {}) {
  using Scalar = typename Tile::Scalar;
  auto *product = reinterpret_cast<float *>(shared);
  auto *ring = reinterpret_cast<Scalar *>(shared);
  const int warp = threadIdx.x / kWarp;
  const int warp_m = warp / Tile::kWarpsN * Tile::kWarpM * 16, warp_n = warp % Tile::kWarpsN * Tile::kWarpN * 8;
  const bool owns = warp < Tile::kWarpsM * Tile::kWarpsN && warp_m < token_end - token;
  const int steps = tiles.last - tiles.first;
  const auto fill = [&](int step) {
    if (step < steps) {
      Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
      Scalar *stage_w = stage_x + Tile::kBlockM * Tile::kBlockK;
      const int column = (tiles.first + step) * Tile::kBlockK;
      stage<Scalar, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(stage_x, operands.x,
                                                                  {token, token_end, column, operands.depth});
      stage<Scalar, Tile::kBlockN, Tile::kBlockK, Tile::kThreads>(stage_w, operands.w,
                                                                  {row, operands.rows, column, operands.depth});
    }
    copy_commit();
  };

  Accumulators<Tile::kWarpM, Tile::kWarpN> sum, half[kHalves];
  clear(sum);
#pragma unroll
  for (int i = 0; i < kHalves; ++i) clear(half[i]);
#pragma unroll 1
  for (int step = 1 - Tile::kStages; step < steps;
       ++step) {  // the first steps only fill: the code of `fill` is there once
    if (step >= 0) {
      copy_wait<Tile::kStages - 2>();
      if (kDrops && dropout.drops())
        drop<Scalar, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(
            ring + step % Tile::kStages * Tile::kStage, dropout,
            {token, token_end, (tiles.first + step) * Tile::kBlockK, operands.depth});
      __syncthreads();
    }
    fill(step + Tile::kStages - 1);
    if (step < 0 || !owns) continue;
    reconverge();
    const Scalar *stage_x = ring + step % Tile::kStages * Tile::kStage;
    const Scalar *stage_w = stage_x + Tile::kBlockM * Tile::kBlockK;
    const auto multiply_half = [&](auto &sum_of_half, int k) {
      multiply<typename Tile::Engine, Along::kDepth, Tile::kBlockK, Along::kDepth, Tile::kBlockK>(
          sum_of_half, stage_x, warp_m, stage_w, warp_n, k, Tile::kHalf / Tile::Engine::kStepK);
    };
    if constexpr (Tile::kStageHalves == kHalves) {
      multiply_half(half[0], 0);
      multiply_half(half[1], Tile::kHalf);
    } else if (step % kHalves == 0) {
      multiply_half(half[0], 0);
    } else {
      multiply_half(half[1], 0);
    }
    if (step % Tile::kSplitSteps == Tile::kSplitSteps - 1 || step == steps - 1) {
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
      store_pair(product + (warp_m + m) * Tile::kProductPitch + warp_n + n, first, second);
    });
  }
  __syncthreads();
  return product;
}

}  // namespace lily::cuda
