// The shrinking products of large ranks. Symbols as in docs/math.md.
//
//   forward    h = phi(x A^T)
//   backward   dh = (s dy C^T + dl R) phi'     one pooling group; large_strip has computed dw, from which dl follows
//
// Each block owns BLOCK_M tokens and BLOCK_N columns of h or dh. Global memory traffic: x or dy once per tile of
// columns, A or C once per tile of tokens, all but the first time from L2; h or dh written once.
#pragma once

#include "cuda/kernels/large.cuh"
#include "cuda/kernels/shrink.cuh"

namespace lily::cuda {

struct LargeShrink {
  ShrinkOperands operands;
  LeftOperand d_hidden;              // describes dh. Backward: kDHidden, with q null; forward: kHidden
  int relu;                          // forward
  float scale;                       // backward
  TokensWithGradient with_gradient;  // backward
  Output saved;                      // forward: h for backward; may be null
  Output out;                        // for the next phase: h, if that cannot read `saved`, or dh; may be null
};

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void large_shrink(const __grid_constant__ LargeShrink call) {
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  const ShrinkOperands &from = call.operands;
  const int token = blockIdx.x * Tile::kBlockM, token_end = min(token + Tile::kBlockM, from.tokens);
  const int row = blockIdx.y * Tile::kBlockN, row_end = min(row + Tile::kBlockN, from.rows);
  const float *product = large_product<Tile, Along::kDepth, Along::kDepth>(
      shared, call.with_gradient.none() ? 0 : from.depth, token_end - token, row_end - row,
      [&](Scalar *a, Scalar *b, int step) {
        const int column = step * Tile::kBlockK;
        stage_activations<Scalar, Tile::kBlockM, Tile::kBlockK>(a, from.x, {token, token_end, column, from.depth});
        stage<Scalar, Tile::kBlockN, Tile::kBlockK>(b, from.w, {row, row_end, column, from.depth});
      });
  const bool backward = call.d_hidden.kind == LeftOperandKind::kDHidden;
  const LhsScratch<Tile::kBlockM> scratch(reinterpret_cast<float *>(shared + Tile::kScratch),
                                          call.d_hidden.router.experts);
  if (backward && call.d_hidden.router.logit_gradient != LogitGradient::kNone) {
    prepare_router_gradient(call.d_hidden.router, scratch);
    form_d_logits(call.d_hidden.router, scratch, token, token_end);
  }
  const int n = row + static_cast<int>(threadIdx.x) % (Tile::kBlockN / 4) * 4;
  if (n >= row_end) return;
  with_whole(has_vec4_d_hidden(call.d_hidden, n), [&](auto is_whole) {
    constexpr int kStep = kThreads / (Tile::kBlockN / 4),
                  kLoadsInFlight = kTileLoadsInFlight<decltype(is_whole)::value, Tile::kBlockM, kStep>;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) / (Tile::kBlockN / 4); token + first < token_end;
         first += kLoadsInFlight * kStep) {
      float value[kLoadsInFlight][4];
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) {
        load_vec4(product + (first + i * kStep) * Tile::kResultPitch + n - row, 4, true, value[i]);
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          if (backward) value[i][v] *= call.scale;
          if (call.relu && value[i][v] < 0) value[i][v] = 0;  // keeps a NaN
        }
      }
      if (backward)
        finish_d_hidden<Scalar, decltype(is_whole)::value>(call.d_hidden, scratch, first, kStep, token + first,
                                                           token_end, n, value);
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) {
        const int at = token + first + i * kStep;
        if (at >= token_end) break;
        if (call.saved.data != nullptr) store_vec4(call.saved, at, n, row_end, value[i]);
        if (call.out.data != nullptr) store_vec4(call.out, at, n, row_end, value[i]);
      }
    }
  });
}

}  // namespace lily::cuda
