// The products that shrink, of large ranks.
//
//   forward    h = phi(x A^T)
//   backward   dh = (s dy C^T + dl R) phi'     one pooling group; D was there before (large_strip.cuh), so dl is known
//
// Passes over memory: x or dy once per block of rows, A or C once per block of tokens, all but the first from the
// second-level cache; h or dh written once.
#pragma once

#include "large.cuh"
#include "shrink.cuh"

namespace lily::cuda {

struct LargeShrink {
  ShrinkOperands operands;
  Left gradient;  // backward: kGradient, with q null; forward: kHidden
  int relu;       // forward
  float scale;    // backward
  Output saved;   // forward: what backward needs; may be null
  Output out;     // what the next phase reads: h if that is not `saved`, or dh; may be null
};

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void large_shrink(const __grid_constant__ LargeShrink call) {
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  const ShrinkOperands &from = call.operands;
  const int token = blockIdx.x * Tile::kM, token_end = min(token + Tile::kM, from.tokens);
  const int row = blockIdx.y * Tile::kN, row_end = min(row + Tile::kN, from.rows);
  const float *product = large_product<Tile, Along::kDepth, Along::kDepth>(
      shared, from.depth, token_end - token, row_end - row, [&](Scalar *a, Scalar *b, int step) {
        const int column = step * Tile::kDepth;
        stage_activations<Scalar, Tile::kM, Tile::kDepth>(a, from.x, {token, token_end, column, from.depth});
        stage<Scalar, Tile::kN, Tile::kDepth>(b, from.w, {row, row_end, column, from.depth});
      });
  const bool backward = call.gradient.kind == LeftKind::kGradient;
  const LeftScratch<Tile::kM> scratch(reinterpret_cast<float *>(shared + Tile::kScratch), call.gradient.router.experts);
  if (backward && call.gradient.router.loss != RouterLoss::kNone) {
    prepare_router_gradient(call.gradient.router, scratch);
    form_logit_loss(call.gradient.router, scratch, token, token_end);
  }
  const int n = row + static_cast<int>(threadIdx.x) % (Tile::kN / 4) * 4;
  if (n >= row_end) return;
  with_whole(has_whole_gradient(call.gradient, n), [&](auto answer) {
    constexpr int kStep = kThreads / (Tile::kN / 4), kCount = kLoads<decltype(answer)::value, Tile::kM, kStep>;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) / (Tile::kN / 4); token + first < token_end;
         first += kCount * kStep) {
      float value[kCount][4];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        load_four(product + (first + i * kStep) * Tile::kResultPitch + n - row, 4, true, value[i]);
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          if (backward) value[i][v] *= call.scale;
          if (call.relu && value[i][v] < 0) value[i][v] = 0;  // not a number stays so
        }
      }
      if (backward)
        finish_gradient<Scalar, decltype(answer)::value>(call.gradient, scratch, first, kStep, token + first, token_end,
                                                         n, value);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int at = token + first + i * kStep;
        if (at >= token_end) break;
        if (call.saved.data != nullptr) store_four(call.saved, at, n, row_end, value[i]);
        if (call.out.data != nullptr) store_four(call.out, at, n, row_end, value[i]);
      }
    }
  });
}

}  // namespace lily::cuda
