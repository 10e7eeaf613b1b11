// Computes two products over a strip of columns. Each block owns BLOCK_N columns and iterates over tokens in tiles of
// BLOCK_M. Symbols as in docs/math.md.
//
//   expand   out[t, n] (+)= scale * sum_k lhs[t, k] w[k, n]     y += s h C, dx += dh A
//   outer    z[k, n] = sum_t lhs[t, k] x[t, n]                  D = h^T dy, dA = dh^T x
//
// If both results are required, one pass computes both and loads lhs once. If lhs has more columns than
// BLOCK_K, expand iterates over all of its K tiles for each tile of tokens; a block of outer computes one of them.
//
// Global memory traffic: x once; out written once, and read once if it accumulates; lhs once per column tile, from L2;
// w once per block. The next tile's cp.async copies overlap with the current tile's MMAs, the copies of the first two
// tiles with the combination of w.
#pragma once

#include "cuda/kernels/left_operand.cuh"

namespace lily::cuda {

struct StripOperands {
  LeftOperand lhs;
  Operand w;   // lhs.columns x columns
  Output out;  // tokens x columns
  float out_scale;
  Operand x;                         // tokens x columns
  TokensWithGradient with_gradient;  // outer; the rows of other tokens count as zero
  int tokens;                        // M
  int columns;                       // d
  int split_tokens;                  // per block, a multiple of kBlockM
};

// pair (+)= (first, second).
template <typename Scalar>
__device__ inline void add_pair(Scalar *pair, float first, float second, bool accumulate) {
  if (accumulate) {
    const float2 old = load_pair(pair);
    first += old.x;
    second += old.y;
  }
  store_pair(pair, first, second);
}

// tile (+)= scale * sum, with the accumulators starting at (m, n) of the tile.
template <typename Scalar, int kBlockN, int kM, int kN>
__device__ inline void add_scaled(Scalar *tile, const Accumulators<kM, kN> &sum, int m, int n, float scale,
                                  bool accumulate) {
  for_each_pair(sum, [&](int row, int column, float first, float second) {
    add_pair(tile + place<Scalar, kBlockN>(m + row, n + column), first * scale, second * scale, accumulate);
  });
}

struct StripIndex {
  int column_tile, split;  // of the columns, of the tokens
  int row_tile;            // of z, for outer: which BLOCK_K columns of lhs
};

// Iterates over the block's tokens. With kExpand lhs is a stored matrix. With kOuter it returns z in shared memory,
// kResultPitch floats per row, readable by all threads. fill_rhs(tile, first row) loads rows of w; it is called once if
// lhs has one K tile, after the copies of the first two tiles have been issued, so that it may compute w.
// kDrops: there may be dropout, of x and of out.
template <typename Tile, bool kExpand, bool kOuter, bool kDrops = false, typename FillRhs>
__device__ __forceinline__ const float *walk_strip(char *shared, const StripOperands &operands, const StripIndex &at,
                                                   bool expands, bool has_outer, const FillRhs &fill_rhs,
                                                   const Dropout &dropout = {}) {
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  const int column = at.column_tile * Tile::kBlockN;
  const int begin = at.split * operands.split_tokens;
  const int end = min(begin + operands.split_tokens, operands.tokens);
  const int all_k_tiles = (operands.lhs.columns + Tile::kBlockK - 1) / Tile::kBlockK;
  const bool iterates_k_tiles = kExpand && expands;
  const int k_tiles = iterates_k_tiles ? all_k_tiles : 1;
  const int first_k_tile = iterates_k_tiles ? 0 : at.row_tile;

  auto *lhs_ring = reinterpret_cast<Scalar *>(shared);
  Scalar *next = lhs_ring + 2 * Tile::kLhs;
  Scalar *x_ring = next;
  if (kOuter && has_outer) next += 2 * Tile::kStrip;
  Scalar *out_ring = next;
  Scalar *rhs_ring = next + 2 * Tile::kStrip;
  if (kExpand && expands) next = rhs_ring + (k_tiles > 1 ? 2 : 1) * Tile::kRhs;
  int *group_of = reinterpret_cast<int *>(next);

  const int tiles = max((end - begin + Tile::kBlockM - 1) / Tile::kBlockM, 0);
  const int steps = tiles * k_tiles;
  const auto fill = [&](int step) {
    if (step < steps) {
      const int tile = step / k_tiles, k_tile = step % k_tiles;
      const int token = begin + tile * Tile::kBlockM;
      const Window window = {token, end, column, operands.columns};
      if (k_tile == 0) {
        if (kOuter && has_outer)
          stage<Scalar, Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(x_ring + tile % 2 * Tile::kStrip, operands.x,
                                                                      window);
        if (kExpand && expands)
          stage_old<Engine, Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(out_ring + tile % 2 * Tile::kStrip,
                                                                          operands.out, window);
      }
      Scalar *lhs = lhs_ring + step % 2 * Tile::kLhs;
      const int row = (first_k_tile + k_tile) * Tile::kBlockK;
      copy_lhs<Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(lhs, operands.lhs, token, end, row);
      if constexpr (!kExpand)
        compute_lhs<Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(lhs, operands.lhs, group_of, token, end, row);
    }
    // If w stays, it follows the copies of the first two tiles.
    if (kExpand && expands && (k_tiles > 1 ? step < steps : step == 1))
      fill_rhs(rhs_ring + (k_tiles > 1 ? step % 2 * Tile::kRhs : 0), step % k_tiles * Tile::kBlockK);
    copy_commit();
  };

  const int warp = threadIdx.x / kWarp;
  const int warp_m = warp / Tile::kExpandWarpsN * Tile::kExpandM * 16;
  const int warp_n = warp % Tile::kExpandWarpsN * Tile::kExpandN * 8;
  const int outer_row = warp / Tile::kOuterWarpsN * Tile::kOuterM * 16;
  const int outer_column = warp % Tile::kOuterWarpsN * Tile::kOuterN * 8;
  Accumulators<kExpand ? Tile::kExpandM : 1, kExpand ? Tile::kExpandN : 1> sum;
  Accumulators<kOuter ? Tile::kOuterM : 1, kOuter ? Tile::kOuterN : 1> z;
  clear(z);
  __shared__ int bounds[2];
  const TilesToClear to_clear(operands.with_gradient, bounds);
  const auto compute = [&](int step) {
    const int tile = step / k_tiles, k_tile = step % k_tiles;
    const int token = begin + tile * Tile::kBlockM;
    Scalar *lhs = lhs_ring + step % 2 * Tile::kLhs;
    if constexpr (kOuter) {
      if (to_clear.contain(token, min(token + Tile::kBlockM, end))) {
        clear_rows_without_gradient<Scalar, Tile::kBlockM, Tile::kBlockK>(lhs, operands.with_gradient, token, end);
        if (has_outer)
          clear_rows_without_gradient<Scalar, Tile::kBlockM, Tile::kBlockN>(x_ring + tile % 2 * Tile::kStrip,
                                                                            operands.with_gradient, token, end);
        __syncthreads();
      }
      if (has_outer)
        multiply<Engine, Along::kOuter, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
            z, lhs, outer_row, x_ring + tile % 2 * Tile::kStrip, outer_column, 0, Tile::kBlockM / Engine::kStepK);
    }
    if constexpr (kExpand) {
      if (expands) {
        const Scalar *w = rhs_ring + (k_tiles > 1 ? step % 2 * Tile::kRhs : 0);
        const int depth = min(operands.lhs.columns - k_tile * Tile::kBlockK, Tile::kBlockK);
        if (k_tile == 0) clear(sum);
        multiply<Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
            sum, lhs, warp_m, w, warp_n, 0, (depth + Engine::kStepK - 1) / Engine::kStepK);
        if (k_tile == k_tiles - 1) {
          Scalar *out = out_ring + tile % 2 * Tile::kStrip;
          const Window window = {token, end, column, operands.columns};
          load_old<Engine, Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(out, operands.out, window);
          add_scaled<Scalar, Tile::kBlockN>(out, sum, warp_m, warp_n, operands.out_scale, operands.out.accumulate);
          __syncthreads();
          unstage<Engine, Tile::kBlockM, Tile::kBlockN, Tile::kThreads, kDrops>(out, operands.out, window, dropout);
        }
      }
    }
  };
#pragma unroll 1
  for (int step = -2; step < steps; ++step) {  // the first two only fill: the code of `fill` is there once
    if (step == 0)
      copy_wait<0>();  // w is part of the last group
    else if (step > 0)
      copy_wait<1>();
    if constexpr (kDrops) {
      if (step >= 0 && step % k_tiles == 0 && has_outer && dropout.drops()) {
        const int tile = step / k_tiles;
        drop<Scalar, Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(
            x_ring + tile % 2 * Tile::kStrip, dropout, {begin + tile * Tile::kBlockM, end, column, operands.columns});
      }
    }
    __syncthreads();
    if (step >= 0) compute(step);
    __syncthreads();  // the next fill writes to what this step, or the fill before, has used
    fill(step + 2);
  }
  auto *result = reinterpret_cast<float *>(shared);
  if constexpr (kOuter) {
    if (has_outer) {
      copy_wait<0>();
      __syncthreads();
      for_each_pair(z, [&](int k, int n, float first, float second) {
        store_pair(result + (outer_row + k) * Tile::kResultPitch + outer_column + n, first, second);
      });
      __syncthreads();
    }
  }
  return result;
}

// Loads rows of a stored matrix w.
template <typename Tile>
__device__ inline void stage_rhs(typename Tile::Scalar *tile, const Operand &w, int rows, int row, int column,
                                 int columns) {
  stage<typename Tile::Scalar, Tile::kBlockK, Tile::kBlockN, Tile::kThreads>(tile, w, {row, rows, column, columns});
}

}  // namespace lily::cuda
