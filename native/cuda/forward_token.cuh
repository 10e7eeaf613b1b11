// Forward of token routing in one launch: nothing is pooled, so the block that has a token's h and p expands them at
// once.
//
//   u_t = p_t (x) h_t    y_t (+)= s u_t B
//
// For small E r and many tokens: each block streams all of B from the second-level cache, which a large tile of tokens
// pays for. u is rounded from the h that is saved, as where the expansion is a launch of its own: both give the same
// bits.
//
// Passes over memory: x once, y (read if it accumulates, and written) once; h and p are written for backward alone.
#pragma once

#include "forward_shrink.cuh"
#include "strip.cuh"

namespace lily::cuda {

template <typename Shrink_, int kRank_>
struct TokenTile {
  using Shrink = Shrink_;
  using Engine = typename Shrink::Engine;
  using Scalar = typename Shrink::Scalar;
  static constexpr int kTokens = Shrink::kTokens, kRank = kRank_, kColumns = 64;
  static constexpr int kMixed = kTokens * kRank, kStrip = kTokens * kColumns, kWeights = kRank * kColumns;
  static constexpr int kWarpsDown = kTokens / 16 < kWarps ? kTokens / 16 : kWarps;
  static constexpr int kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kM = kTokens / 16 / kWarpsDown, kN = kColumns / 8 / kWarpsAcross;

  // h and logits stay; u, and two stages of B and y, follow them.
  static int bytes(int experts, int rank) {
    const int stays = Shrink::kProduct * 4 + route_bytes(kTokens, experts, rank);
    const int all = stays + 16 + (kMixed + 2 * (kStrip + kWeights)) * static_cast<int>(sizeof(Scalar));
    return all > Shrink::kBytes ? all : Shrink::kBytes;
  }
};

struct ForwardToken {
  ForwardShrink shrink;
  Operand b;  // E*r x d_out
  Output y;
  float scale;
  int columns;
};

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_token(const __grid_constant__ ForwardToken call) {
  using Scalar = typename Tile::Scalar;
  using Shrink = typename Tile::Shrink;
  extern __shared__ __align__(16) char shared[];
  const Route &route = call.shrink.route;
  const int token = blockIdx.x * call.shrink.operands.tile_tokens;
  const int token_end = min(token + call.shrink.operands.tile_tokens, call.shrink.operands.tokens);
  const float *product = shrink_and_route<Shrink>(shared, call.shrink, token, token_end, 0);
  const float *p = product + Shrink::kProduct;
  const int p_pitch = route.experts | 1;
  const int stays = (Shrink::kProduct + Tile::kTokens * p_pitch + 3) / 4 * 4;  // the router is done with
  auto *mixed = reinterpret_cast<Scalar *>(shared + stays * sizeof(float));
  Scalar *ring = mixed + Tile::kMixed;
  const int mixed_columns = route.experts * route.rank;
  __syncthreads();

  const int steps = (call.columns + Tile::kColumns - 1) / Tile::kColumns;
  const auto fill = [&](int step) {
    if (step < steps) {
      const int column = step * Tile::kColumns;
      Scalar *weights = ring + step % 2 * (Tile::kWeights + Tile::kStrip);
      stage<Scalar, Tile::kRank, Tile::kColumns>(weights, call.b, {0, mixed_columns, column, call.columns});
      if (call.y.accumulate)
        stage_activations<Scalar, Tile::kTokens, Tile::kColumns>(weights + Tile::kWeights, call.y.operand(),
                                                                 {token, token_end, column, call.columns});
    }
    copy_commit();
  };
  fill(0);
  for (int i = threadIdx.x; i < Tile::kTokens * Tile::kRank; i += kThreads) {
    const int t = i / Tile::kRank, j = i % Tile::kRank;
    float value = 0;
    if (token + t < token_end && j < mixed_columns) {
      const float h = to_float(from_float<Scalar>(product[t * Shrink::kProductPitch + j % route.rank]));
      value = p[t * p_pitch + j / route.rank] * h;
    }
    mixed[place<Scalar, Tile::kRank>(t, j)] = from_float<Scalar>(value);
  }
  __syncthreads();

  const int warp = threadIdx.x / kWarp;
  const int down = warp / Tile::kWarpsAcross * Tile::kM * 16, across = warp % Tile::kWarpsAcross * Tile::kN * 8;
  for (int step = 0; step < steps; ++step) {
    fill(step + 1);
    copy_wait<1>();
    __syncthreads();
    const Scalar *weights = ring + step % 2 * (Tile::kWeights + Tile::kStrip);
    Scalar *y = ring + step % 2 * (Tile::kWeights + Tile::kStrip) + Tile::kWeights;
    Accumulators<Tile::kM, Tile::kN> sum;
    clear(sum);
    multiply<typename Tile::Engine, Along::kDepth, Tile::kRank, Along::kOuter, Tile::kColumns>(
        sum, mixed, down, weights, across, 0, (mixed_columns + Tile::Engine::kDepth - 1) / Tile::Engine::kDepth);
    add_scaled<Scalar, Tile::kColumns>(y, sum, down, across, call.scale, call.y.accumulate);
    __syncthreads();
    unstage<Scalar, Tile::kTokens, Tile::kColumns>(y, call.y, {token, token_end, step * Tile::kColumns, call.columns});
    __syncthreads();
  }
}

}  // namespace lily::cuda
