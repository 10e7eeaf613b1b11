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
  int tile_rows;  // of w per block, at most kBlockN: equal shares leave no tile nearly empty
  int backward;
  DHidden d_hidden;  // backward; the product, scaled, is q
  float scale;       // backward
  int relu;          // forward
  Output saved;      // forward: h for backward; may be null
  Output out;        // forward: h for the next phase, if that cannot read `saved`; may be null
};

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kProductBlocks) void large_shrink(const __grid_constant__ LargeShrink call) {
  if constexpr (!kHasCode<Tile, Tile::kScratch>) return;
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(kLargeAlignment) char large_shared[];
  char *const shared = large_shared;
  const ShrinkOperands &from = call.operands;
  const int token = blockIdx.x * Tile::kBlockM, token_end = min(token + Tile::kBlockM, from.tokens);
  const int row = blockIdx.y * call.tile_rows, row_end = min(row + call.tile_rows, from.rows);
  wait_for_previous_launch();
  const float *product = large_product<Tile, Along::kDepth, Along::kDepth>(
      shared, from.depth, token_end - token, row_end - row, [&](Scalar *a, Scalar *b, int step) {
        const int column = step * Tile::kBlockK;
        stage_activations<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(
            a, from.x, {token, token_end, column, from.depth});
        stage<Scalar, Tile::kBlockN, Tile::kBlockK, Tile::kThreads>(b, from.w, {row, row_end, column, from.depth});
      });
  allow_next_launch();
  if (call.backward) {
    const DHiddenScratch<Tile::kBlockM> scratch(reinterpret_cast<float *>(shared + Tile::kScratch),
                                                call.d_hidden.router.experts);
    find_rows(call.d_hidden, scratch, token, token_end);
    __syncthreads();
    if (call.d_hidden.router.logit_gradient != LogitGradient::kNone) {
      prepare_router_gradient(call.d_hidden.router, scratch);
      form_d_logits(call.d_hidden, scratch, {}, token, token_end, row == 0);
    }
    store_d_hidden<typename Tile::Engine, Tile::kThreads>(
        call.d_hidden, scratch, token, token_end, row, row_end, Tile::kBlockN / 4,
        [&](auto, const RowsInFlight &rows, int k, auto &value) {
          load_product<Tile::kResultPitch>(product + k - row, call.scale, rows, value);
        });
    return;
  }
  constexpr int kVec4PerRow = Tile::kBlockN / 4;
  for (int i = threadIdx.x; i < (token_end - token) * kVec4PerRow; i += Tile::kThreads) {
    const int t = i / kVec4PerRow, n = i % kVec4PerRow * 4;
    if (row + n >= row_end) continue;
    float value[4];
    load_vec4(product + t * Tile::kResultPitch + n, 4, true, value);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (call.relu && value[v] < 0) value[v] = 0;  // keeps a NaN
    if (call.saved.data != nullptr)
      store_vec4(typename Tile::Engine::Activations{}, call.saved, token + t, row + n, row_end, value);
    if (call.out.data != nullptr) store_vec4(Types<Scalar>{}, call.out, token + t, row + n, row_end, value);
  }
}

}  // namespace lily::cuda
