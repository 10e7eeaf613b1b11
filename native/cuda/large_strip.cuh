// The other products of large ranks, in one kernel with blocks of several kinds:
//
//   outer    D = s h^T dy, with its part of dw_e = <B_e, D>, or dA = dh^T x
//   expand   y (+)= s h C or s u B, or dx (+)= dh A
//   combine  C = sum_e w_e B_e, beside D, for q = dy C^T
//   router   dR = dl^T h, beside dx and dA
//
// Forward launches expand alone; of few tokens C is combined as it is loaded. Backward launches outer and combine,
// then, after large_shrink, outer, expand and router. What takes longest comes first in the grid.
//
// Passes over memory: of outer, each operand once per tile of the other side; of expand, left once per tile of columns,
// w once per tile of tokens, all but the first from the second-level cache; results once.
#pragma once

#include "backward_x.cuh"
#include "large.cuh"

namespace lily::cuda {

struct LargeStrip {
  Left left;  // kHidden or, forward, kMixed
  int tokens, columns;
  // outer
  int outer_blocks;
  int slices, splits;  // of columns, of tokens
  int split_tokens;
  Operand x;  // M x columns
  OuterTarget target;
  ExpertLosses losses;
  // expand
  int expand_blocks;
  Operand w;           // left.columns x columns; data null: C, combined here
  Experts experts;     // of C
  Weights weights;     // of C
  float *weights_out;  // E; may be null
  Output out;
  float scale;
  // combine
  Combine combine;
  int combine_slices, combine_blocks;
  // router
  RouterBlocks router;
};

template <typename Tile>
__device__ inline void large_outer(char *shared, const LargeStrip &call, int index) {
  using Scalar = typename Tile::Scalar;
  StripBlock at;
  at.slice = index % call.slices;
  at.split = index / call.slices % call.splits;
  at.block = index / call.slices / call.splits;
  const int row = at.block * Tile::kM, column = at.slice * Tile::kN;
  const int token = at.split * call.split_tokens, token_end = min(token + call.split_tokens, call.tokens);
  const float *z = large_product<Tile, Along::kOuter, Along::kOuter>(
      shared, max(token_end - token, 0), call.left.columns - row, call.columns - column,
      [&](Scalar *a, Scalar *b, int step) {
        const int first = token + step * Tile::kDepth;
        stage_activations<Scalar, Tile::kDepth, Tile::kM>(a, call.left.hidden,
                                                          {first, token_end, row, call.left.columns});
        stage_activations<Scalar, Tile::kDepth, Tile::kN>(b, call.x, {first, token_end, column, call.columns});
      });
  finish_outer<Tile>(z, call.target, at);
  find_expert_losses<Tile>(shared, call.losses, at, call.target.scale, index);
}

template <typename Tile>
__device__ inline void large_expand(char *shared, float *weights, const LargeStrip &call, int index) {
  using Scalar = typename Tile::Scalar;
  const int slices = (call.columns + Tile::kN - 1) / Tile::kN;
  const int token = index / slices * Tile::kM, token_end = min(token + Tile::kM, call.tokens);
  const int column = index % slices * Tile::kN, column_end = min(column + Tile::kN, call.columns);
  const bool combines = call.w.data == nullptr;
  if (combines || (index == 0 && call.weights_out != nullptr)) {
    find_weights(weights, call.weights);
    if (index == 0 && call.weights_out != nullptr)
      for (int e = threadIdx.x; e < call.weights.experts; e += kThreads) call.weights_out[e] = weights[e];
  }
  const LeftScratch<Tile::kM> scratch(reinterpret_cast<float *>(shared + Tile::kScratch), call.left.router.experts);
  const float *product = large_product<Tile, Along::kDepth, Along::kOuter>(
      shared, call.left.columns, token_end - token, column_end - column, [&](Scalar *a, Scalar *b, int step) {
        const int k = step * Tile::kDepth;
        if (combines)
          combine_tile<Scalar, Tile::kDepth, Tile::kN>(b, call.experts, weights, k, column);
        else
          stage<Scalar, Tile::kDepth, Tile::kN>(b, call.w, {k, call.left.columns, column, call.columns});
        stage_left<Scalar, Tile::kM, Tile::kDepth>(a, call.left, scratch, token, token_end, k);
      });
  constexpr int kFours = Tile::kN / 4;
  for (int i = threadIdx.x; i < (token_end - token) * kFours; i += kThreads) {
    const int t = i / kFours, n = i % kFours * 4;
    if (column + n >= column_end) continue;
    float value[4];
    load_four(product + t * Tile::kResultPitch + n, 4, true, value);
#pragma unroll
    for (int v = 0; v < 4; ++v) value[v] *= call.scale;
    store_four(call.out, token + t, column + n, column_end, value);
  }
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void large_strip(const __grid_constant__ LargeStrip call) {
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  int index = blockIdx.x;
  if (index < call.outer_blocks) {
    large_outer<Tile>(shared, call, index);
    return;
  }
  index -= call.outer_blocks;
  if (index < call.expand_blocks) {
    large_expand<Tile>(shared, weights, call, index);
    return;
  }
  index -= call.expand_blocks;
  if (index < call.combine_blocks)
    combine_block(call.combine, reinterpret_cast<typename Tile::Scalar *>(shared), weights, index % call.combine_slices,
                  index / call.combine_slices);
  else
    backward_router<typename Tile::Scalar>(shared, call.router, index - call.combine_blocks);
}

}  // namespace lily::cuda
