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

#include "left.cuh"

namespace lily::cuda {

struct StripOperands {
  Left left;
  Operand w;   // left.columns x columns
  Output out;  // tokens x columns
  float out_scale;
  Operand x;         // tokens x columns
  int tokens;        // M
  int columns;       // d
  int split_tokens;  // tokens of one block, a multiple of the tile's
};

// What splits of whole tiles may be made of without knowing the tile.
constexpr int kMostStripTokens = 64;

template <typename Engine_, int kTokens_, int kRank_, int kColumns_>
struct StripTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kTokens = kTokens_, kRank = kRank_, kColumns = kColumns_;
  static constexpr int kLeft = kTokens * kRank, kStrip = kTokens * kColumns, kWeights = kRank * kColumns;
  // Expand: warps side by side over tokens, then over columns. Outer: over columns.
  static constexpr int kWarpsDown = kTokens / 16 < kWarps ? kTokens / 16 : kWarps;
  static constexpr int kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kExpandM = kTokens / 16 / kWarpsDown, kExpandN = kColumns / 8 / kWarpsAcross;
  static constexpr int kOuterM = kRank / 16, kOuterN = kColumns / 8 / kWarps;
  static constexpr int kResultPitch = kColumns + 8;  // floats
  static_assert(kExpandN > 0 && kOuterN > 0 && kMostStripTokens % kTokens == 0);

  // Bytes of shared memory. `streams`: the left operand has more than one block, so w does not stay.
  static int bytes(bool expands, bool has_outer, bool streams, int experts) {
    int numbers = 2 * kLeft;
    if (expands) numbers += 2 * kStrip + (streams ? 2 : 1) * kWeights;
    if (has_outer) numbers += 2 * kStrip;
    const int ring = numbers * static_cast<int>(sizeof(Scalar)) + left_scratch(kTokens, experts) * 4;
    const int result = has_outer ? kRank * kResultPitch * 4 + kWarps * 4 : 0;
    return ring > result ? ring : result;
  }
};

// tile (+)= scale sum, where the accumulators begin at row m and column n of the tile.
template <typename Scalar, int kColumns, int kM, int kN>
__device__ inline void add_scaled(Scalar *tile, const Accumulators<kM, kN> &sum, int m, int n, float scale,
                                  bool accumulate) {
  for_each_pair(sum, [&](int row, int column, float first, float second) {
    Scalar *pair = tile + place<Scalar, kColumns>(m + row, n + column);
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

struct StripBlock {
  int slice, split;  // of columns, of tokens
  int block;         // of the left operand's columns, for outer
};

// Runs the walk. With kOuter the result z of the block's rows is left in shared memory, kResultPitch floats a row, for
// all threads to read. fill_weights(tile, first row) brings w's rows; it is asked once where the left operand is one
// block.
template <typename Tile, bool kExpand, bool kOuter, typename FillWeights>
__device__ inline const float *walk_strip(char *shared, const StripOperands &operands, const StripBlock &at,
                                          bool expands, bool has_outer, const FillWeights &fill_weights) {
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  constexpr bool kForms = kExpand && kOuter;  // the left operand is dh
  const int column = at.slice * Tile::kColumns;
  const int begin = at.split * operands.split_tokens;
  const int end = min(begin + operands.split_tokens, operands.tokens);
  const int all_blocks = (operands.left.columns + Tile::kRank - 1) / Tile::kRank;
  const bool walks_blocks = kExpand && expands;
  const int blocks = walks_blocks ? all_blocks : 1;
  const int first_block = walks_blocks ? 0 : at.block;

  auto *left_ring = reinterpret_cast<Scalar *>(shared);
  Scalar *next = left_ring + 2 * Tile::kLeft;
  Scalar *x_ring = next;
  if (kOuter && has_outer) next += 2 * Tile::kStrip;
  Scalar *out_ring = next;
  Scalar *weights = next + 2 * Tile::kStrip;
  if (kExpand && expands) next = weights + (blocks > 1 ? 2 : 1) * Tile::kWeights;
  const LeftScratch<Tile::kTokens> scratch(reinterpret_cast<float *>(next), operands.left.router.experts);

  const int tiles = max((end - begin + Tile::kTokens - 1) / Tile::kTokens, 0);
  const int steps = tiles * blocks;
  const auto fill = [&](int step) {
    if (step < steps) {
      const int tile = step / blocks, block = step % blocks;
      const int token = begin + tile * Tile::kTokens;
      const Window window = {token, end, column, operands.columns};
      if (block == 0) {
        if (kOuter && has_outer)
          stage_activations<Scalar, Tile::kTokens, Tile::kColumns>(x_ring + tile % 2 * Tile::kStrip, operands.x,
                                                                   window);
        if (kExpand && expands && operands.out.accumulate)
          stage_activations<Scalar, Tile::kTokens, Tile::kColumns>(out_ring + tile % 2 * Tile::kStrip,
                                                                   operands.out.operand(), window);
      }
      if (kExpand && blocks > 1) fill_weights(weights + step % 2 * Tile::kWeights, block * Tile::kRank);
      Scalar *left = left_ring + step % 2 * Tile::kLeft;
      const int row = (first_block + block) * Tile::kRank;
      if constexpr (kForms)
        stage_gradient<Scalar, Tile::kTokens, Tile::kRank>(left, operands.left, scratch, token, end, row);
      else
        stage_left<Scalar, Tile::kTokens, Tile::kRank>(left, operands.left, scratch, token, end, row);
    }
    copy_commit();
  };

  if constexpr (kForms) prepare_router_gradient(operands.left.router, scratch);
  if (kExpand && expands && blocks == 1) fill_weights(weights, 0);
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
    const int tile = step / blocks, block = step % blocks;
    const int token = begin + tile * Tile::kTokens;
    const Scalar *left = left_ring + step % 2 * Tile::kLeft;
    if constexpr (kOuter) {
      if (has_outer)
        multiply<Engine, Along::kOuter, Tile::kRank, Along::kOuter, Tile::kColumns>(
            z, left, 0, x_ring + tile % 2 * Tile::kStrip, outer_column, 0, Tile::kTokens / Engine::kDepth);
    }
    if constexpr (kExpand) {
      if (expands) {
        const Scalar *w = weights + (blocks > 1 ? step % 2 * Tile::kWeights : 0);
        const int depth = min(operands.left.columns - block * Tile::kRank, Tile::kRank);
        multiply<Engine, Along::kDepth, Tile::kRank, Along::kOuter, Tile::kColumns>(
            sum, left, down, w, across, 0, (depth + Engine::kDepth - 1) / Engine::kDepth);
        if (block == blocks - 1) {
          Scalar *out = out_ring + tile % 2 * Tile::kStrip;
          add_scaled<Scalar, Tile::kColumns>(out, sum, down, across, operands.out_scale, operands.out.accumulate);
          clear(sum);
          __syncthreads();
          unstage<Scalar, Tile::kTokens, Tile::kColumns>(out, operands.out, {token, end, column, operands.columns});
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
__device__ inline void stage_weights(typename Tile::Scalar *tile, const Operand &w, int rows, int row, int column,
                                     int columns) {
  stage<typename Tile::Scalar, Tile::kRank, Tile::kColumns>(tile, w, {row, rows, column, columns});
}

}  // namespace lily::cuda
