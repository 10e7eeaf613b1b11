// Forward of token routing in one launch. Nothing is pooled, so the block that computes h and p of a token also
// computes its y. Symbols as in docs/math.md.
//
//   u_t = p_t (x) h_t    y_t (+)= s u_t B
//
// For small E r and many tokens: every block streams all of B from L2, which pays off with a large tile of tokens. u is
// computed from h rounded as it is saved, as in the two-launch version: both give the same bits.
//
// Global memory traffic: x once; y written once, and read once if it accumulates; h and p are written for backward
// only.
#pragma once

#include "cuda/kernels/forward_shrink.cuh"
#include "cuda/kernels/strip.cuh"

namespace lily::cuda {

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
  const int stays = (Shrink::kProduct + Tile::kBlockM * p_pitch + 3) / 4 * 4;  // R is no longer used
  auto *u = reinterpret_cast<Scalar *>(shared + stays * sizeof(float));
  Scalar *ring = u + Tile::kU;
  const int u_columns = route.experts * route.rank;
  __syncthreads();

  const int steps = (call.columns + Tile::kBlockN - 1) / Tile::kBlockN;
  const auto fill = [&](int step) {
    if (step < steps) {
      const int column = step * Tile::kBlockN;
      Scalar *b = ring + step % 2 * (Tile::kRhs + Tile::kStrip);
      stage<Scalar, Tile::kBlockK, Tile::kBlockN>(b, call.b, {0, u_columns, column, call.columns});
      if (call.y.accumulate)
        stage_activations<Scalar, Tile::kBlockM, Tile::kBlockN>(b + Tile::kRhs, call.y.operand(),
                                                                {token, token_end, column, call.columns});
    }
    copy_commit();
  };
  fill(0);
  for (int i = threadIdx.x; i < Tile::kBlockM * Tile::kBlockK; i += kThreads) {
    const int t = i / Tile::kBlockK, j = i % Tile::kBlockK;
    float value = 0;
    if (token + t < token_end && j < u_columns) {
      const float h = to_float(from_float<Scalar>(product[t * Shrink::kProductPitch + j % route.rank]));
      value = p[t * p_pitch + j / route.rank] * h;
    }
    u[place<Scalar, Tile::kBlockK>(t, j)] = from_float<Scalar>(value);
  }
  __syncthreads();

  const int warp = threadIdx.x / kWarp;
  const int warp_m = warp / Tile::kWarpsN * Tile::kM * 16, warp_n = warp % Tile::kWarpsN * Tile::kN * 8;
  for (int step = 0; step < steps; ++step) {
    fill(step + 1);
    copy_wait<1>();
    __syncthreads();
    const Scalar *b = ring + step % 2 * (Tile::kRhs + Tile::kStrip);
    Scalar *y = ring + step % 2 * (Tile::kRhs + Tile::kStrip) + Tile::kRhs;
    Accumulators<Tile::kM, Tile::kN> sum;
    clear(sum);
    multiply<typename Tile::Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
        sum, u, warp_m, b, warp_n, 0, (u_columns + Tile::Engine::kStepK - 1) / Tile::Engine::kStepK);
    add_scaled<Scalar, Tile::kBlockN>(y, sum, warp_m, warp_n, call.scale, call.y.accumulate);
    __syncthreads();
    unstage<Scalar, Tile::kBlockM, Tile::kBlockN>(y, call.y, {token, token_end, step * Tile::kBlockN, call.columns});
    __syncthreads();
  }
}

}  // namespace lily::cuda
