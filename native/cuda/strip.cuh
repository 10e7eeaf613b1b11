// Products over a strip of columns: a block owns some columns of the long dimension and walks down the tokens.
//
//   expand   out[t][n] (+)= scale sum_k left[t][k] w[k][n]     y += s h C, dx += dh A
//   outer    z[k][n] = sum_t left[t][k] x[t][n]                D = h^T dy, dA = dh^T x
//
// Both in one walk where both are wanted: the left operand is then formed once. A left operand of more columns than the
// tile has is walked in blocks: expand visits all of them per tile of tokens, outer is for one.
//
// Passes over memory: out (read if it accumulates, and written) and x once; left once per strip from the second-level
// cache; w once per block. Tiles of the next step arrive while this one is computed.
#pragma once

#include "left_operand.cuh"

namespace lily::cuda {

struct StripOperands {
  LeftOperand lhs;
  Operand w;   // left.columns x columns
  Output out;  // tokens x columns
  float out_scale;
  Operand x;         // tokens x columns
  int tokens;        // M
  int columns;       // d
  int split_tokens;  // tokens of one block, a multiple of the tile's
};

// What splits of whole tiles may be made of without knowing the tile.
constexpr int kMaxStripBlockM = 64;

template <typename Engine_, int kBlockM_, int kBlockK_, int kBlockN_>
struct StripTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockK = kBlockK_, kBlockN = kBlockN_;
  static constexpr int kLhs = kBlockM * kBlockK, kStrip = kBlockM * kBlockN, kRhs = kBlockK * kBlockN;
  // Expand: warps side by side over tokens, then over columns. Outer: over columns.
  static constexpr int kWarpsDown = kBlockM / 16 < kWarps ? kBlockM / 16 : kWarps;
  static constexpr int kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kExpandM = kBlockM / 16 / kWarpsDown, kExpandN = kBlockN / 8 / kWarpsAcross;
  static constexpr int kOuterM = kBlockK / 16, kOuterN = kBlockN / 8 / kWarps;
  static constexpr int kResultRows = kBlockK, kResultPitch = kBlockN + 8;  // of z; floats
  static_assert(kExpandN > 0 && kOuterN > 0 && kMaxStripBlockM % kBlockM == 0);

  // Bytes of shared memory. `streams`: the left operand has more than one block, so w does not stay.
  static int bytes(bool expands, bool has_outer, bool streams, int experts) {
    int numbers = 2 * kLhs;
    if (expands) numbers += 2 * kStrip + (streams ? 2 : 1) * kRhs;
    if (has_outer) numbers += 2 * kStrip;
    const int ring = numbers * static_cast<int>(sizeof(Scalar)) + lhs_scratch(kBlockM, experts) * 4;
    const int result = has_outer ? kBlockK * kResultPitch * 4 + kWarps * 4 : 0;
    return ring > result ? ring : result;
  }
};

// tile (+)= scale sum, where the accumulators begin at row m and column n of the tile.
template <typename Scalar, int kBlockN, int kM, int kN>
__device__ inline void add_scaled(Scalar *tile, const Accumulators<kM, kN> &sum, int m, int n, float scale,
                                  bool accumulate) {
  for_each_pair(sum, [&](int row, int column, float first, float second) {
    Scalar *pair = tile + place<Scalar, kBlockN>(m + row, n + column);
    first *= scale;
    second *= scale;
    if (accumulate) {
      const float2 old = load_pair(pair);
      first += old.x;
      second += old.y;
    }
    store_pair(pair, first, second);
  });
}

struct StripIndex {
  int column_tile, split;  // of columns, of tokens
  int row_tile;            // of the left operand's columns, for outer
};

// Runs the walk. With kOuter the result z of the block's rows is left in shared memory, kResultPitch floats a row, for
// all threads to read. fill_weights(tile, first row) brings w's rows; it is asked once where the left operand is one
// block.
template <typename Tile, bool kExpand, bool kOuter, typename FillRhs>
__device__ inline const float *walk_strip(char *shared, const StripOperands &operands, const StripIndex &at,
                                          bool expands, bool has_outer, const FillRhs &fill_rhs) {
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  constexpr bool kFormsDHidden = kExpand && kOuter;  // the left operand is dh
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
  const LhsScratch<Tile::kBlockM> scratch(reinterpret_cast<float *>(next), operands.lhs.router.experts);

  const int tiles = max((end - begin + Tile::kBlockM - 1) / Tile::kBlockM, 0);
  const int steps = tiles * k_tiles;
  const auto fill = [&](int step) {
    if (step < steps) {
      const int tile = step / k_tiles, k_tile = step % k_tiles;
      const int token = begin + tile * Tile::kBlockM;
      const Window window = {token, end, column, operands.columns};
      if (k_tile == 0) {
        if (kOuter && has_outer)
          stage_activations<Scalar, Tile::kBlockM, Tile::kBlockN>(x_ring + tile % 2 * Tile::kStrip, operands.x, window);
        if (kExpand && expands && operands.out.accumulate)
          stage_activations<Scalar, Tile::kBlockM, Tile::kBlockN>(out_ring + tile % 2 * Tile::kStrip,
                                                                  operands.out.operand(), window);
      }
      if (kExpand && k_tiles > 1) fill_rhs(rhs_ring + step % 2 * Tile::kRhs, k_tile * Tile::kBlockK);
      Scalar *lhs = lhs_ring + step % 2 * Tile::kLhs;
      const int row = (first_k_tile + k_tile) * Tile::kBlockK;
      if constexpr (kFormsDHidden)
        stage_d_hidden<Scalar, Tile::kBlockM, Tile::kBlockK>(lhs, operands.lhs, scratch, token, end, row);
      else
        stage_lhs<Scalar, Tile::kBlockM, Tile::kBlockK>(lhs, operands.lhs, scratch, token, end, row);
    }
    copy_commit();
  };

  if constexpr (kFormsDHidden) prepare_router_gradient(operands.lhs.router, scratch);
  if (kExpand && expands && k_tiles == 1) fill_rhs(rhs_ring, 0);
  fill(0);
  __syncthreads();  // the next fill writes the same scratch

  const int warp = threadIdx.x / kWarp;
  const int down = warp / Tile::kWarpsAcross * Tile::kExpandM * 16;
  const int across = warp % Tile::kWarpsAcross * Tile::kExpandN * 8;
  const int outer_column = warp * Tile::kOuterN * 8;
  Accumulators<kExpand ? Tile::kExpandM : 1, kExpand ? Tile::kExpandN : 1> sum;
  Accumulators<kOuter ? Tile::kOuterM : 1, kOuter ? Tile::kOuterN : 1> z;
  clear(sum);
  clear(z);
  for (int step = 0; step < steps; ++step) {
    fill(step + 1);
    copy_wait<1>();
    __syncthreads();
    const int tile = step / k_tiles, k_tile = step % k_tiles;
    const int token = begin + tile * Tile::kBlockM;
    const Scalar *lhs = lhs_ring + step % 2 * Tile::kLhs;
    if constexpr (kOuter) {
      if (has_outer)
        multiply<Engine, Along::kOuter, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
            z, lhs, 0, x_ring + tile % 2 * Tile::kStrip, outer_column, 0, Tile::kBlockM / Engine::kStepK);
    }
    if constexpr (kExpand) {
      if (expands) {
        const Scalar *w = rhs_ring + (k_tiles > 1 ? step % 2 * Tile::kRhs : 0);
        const int depth = min(operands.lhs.columns - k_tile * Tile::kBlockK, Tile::kBlockK);
        multiply<Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
            sum, lhs, down, w, across, 0, (depth + Engine::kStepK - 1) / Engine::kStepK);
        if (k_tile == k_tiles - 1) {
          Scalar *out = out_ring + tile % 2 * Tile::kStrip;
          add_scaled<Scalar, Tile::kBlockN>(out, sum, down, across, operands.out_scale, operands.out.accumulate);
          clear(sum);
          __syncthreads();
          unstage<Scalar, Tile::kBlockM, Tile::kBlockN>(out, operands.out, {token, end, column, operands.columns});
        }
      }
    }
    __syncthreads();
  }
  auto *result = reinterpret_cast<float *>(shared);
  if constexpr (kOuter) {
    if (has_outer) {
      copy_wait<0>();  // without tokens nothing has waited for w
      __syncthreads();
      for_each_pair(z, [&](int k, int n, float first, float second) {
        *reinterpret_cast<float2 *>(result + k * Tile::kResultPitch + outer_column + n) = make_float2(first, second);
      });
      __syncthreads();
    }
  }
  return result;
}

// Rows of a plain matrix.
template <typename Tile>
__device__ inline void stage_rhs(typename Tile::Scalar *tile, const Operand &w, int rows, int row, int column,
                                 int columns) {
  stage<typename Tile::Scalar, Tile::kBlockK, Tile::kBlockN>(tile, w, {row, rows, column, columns});
}

}  // namespace lily::cuda
