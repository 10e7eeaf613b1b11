// The other products of large ranks: one kernel with blocks of several kinds. Symbols as in docs/math.md.
//
//   outer    D = s h^T dy with partial sums of dw_e = <B_e, D>, or dA = dh^T x
//   expand   y (+)= s h C or s u B, or dx (+)= dh A
//   combine  C = sum_e w_e B_e, in the same launch as D, for q = dy C^T
//   router   dR = dl^T h, in the same launch as dx and dA
//
// Forward launches only expand blocks; with few tokens they combine C as they load it. Backward launches outer and
// combine blocks, then large_shrink, then outer, expand and router blocks. The blocks that run longest come first in
// the grid.
//
// Global memory traffic: outer loads each operand once per tile of the other dimension; expand loads lhs once per tile
// of columns and w once per tile of tokens; all but the first time from L2. Results are written once.
#pragma once

#include "cuda/kernels/backward_x.cuh"
#include "cuda/kernels/large.cuh"

namespace lily::cuda {

struct LargeStrip {
  LeftOperand lhs;  // h or dh; in forward also u
  int tokens, columns;
  // outer
  int outer_blocks;
  int column_tiles, splits;  // of columns, of tokens
  int split_tokens;
  Operand x;  // M x columns
  OuterTarget target;
  DWeights d_weights;
  TokensWithGradient with_gradient;
  // expand
  int expand_blocks;
  Operand w;           // lhs.columns x columns; data null: C, combined as it is loaded
  Experts experts;     // for C
  Weights weights;     // for C
  float *weights_out;  // E; may be null
  Output out;
  float scale;
  // combine
  Combine combine;
  int combine_column_tiles, combine_blocks;
  // router
  RouterBlocks router;
};

// Inlined, because a function would receive the address of the kernel's parameters.
template <typename Tile>
__device__ __forceinline__ void large_outer(char *shared, const LargeStrip &call, int index) {
  using Scalar = typename Tile::Scalar;
  StripIndex at;
  at.column_tile = index % call.column_tiles;
  at.split = index / call.column_tiles % call.splits;
  at.row_tile = index / call.column_tiles / call.splits;
  const int row = at.row_tile * Tile::kBlockM, column = at.column_tile * Tile::kBlockN;
  const int token = at.split * call.split_tokens, token_end = min(token + call.split_tokens, call.tokens);
  const float *z = large_product<Tile, Along::kOuter, Along::kOuter>(
      shared, call.with_gradient.none() ? 0 : max(token_end - token, 0), call.lhs.columns - row, call.columns - column,
      [&](Scalar *a, Scalar *b, int step) {
        const int first = token + step * Tile::kBlockK;
        stage_activations<typename Tile::Engine, Tile::kBlockK, Tile::kBlockM>(
            a, call.lhs.hidden, {first, token_end, row, call.lhs.columns});
        stage_activations<typename Tile::Engine, Tile::kBlockK, Tile::kBlockN>(
            b, call.x, {first, token_end, column, call.columns});
      });
  allow_next_launch();
  finish_outer<Tile>(z, call.target, at);
  form_d_weights<Tile>(shared, call.d_weights, at, call.target.scale, index);
}

template <typename Tile>
__device__ __forceinline__ void large_expand(char *shared, float *weights, const LargeStrip &call, int index) {
  using Scalar = typename Tile::Scalar;
  const int column_tiles = (call.columns + Tile::kBlockN - 1) / Tile::kBlockN;
  const int token = index / column_tiles * Tile::kBlockM, token_end = min(token + Tile::kBlockM, call.tokens);
  const int column = index % column_tiles * Tile::kBlockN, column_end = min(column + Tile::kBlockN, call.columns);
  const bool combines = call.w.data == nullptr;
  if (combines || (index == 0 && call.weights_out != nullptr)) {
    compute_weights(weights, call.weights);
    if (index == 0 && call.weights_out != nullptr)
      for (int e = threadIdx.x; e < call.weights.experts; e += kThreads) call.weights_out[e] = weights[e];
  }
  int *group_of = reinterpret_cast<int *>(shared + Tile::kScratch);
  const WarpTile<Tile> warp_tile(token_end - token, column_end - column);
  Accumulators<Tile::kWarpM, Tile::kWarpN> sum;
  const Window tile = {token, token_end, column, column_end};
  large_sums<Tile, Along::kDepth, Along::kOuter>(
      sum, shared, call.lhs.columns, warp_tile,
      [&](Scalar *a, Scalar *b, int step) {
        const int k = step * Tile::kBlockK;
        copy_lhs<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK>(a, call.lhs, token, token_end, k);
        if (combines)
          combine_tile<typename Tile::Engine, Tile::kBlockK, Tile::kBlockN, 1>(b, call.experts, weights, k, column);
        else
          stage<Scalar, Tile::kBlockK, Tile::kBlockN>(b, call.w, {k, call.lhs.columns, column, call.columns});
        compute_lhs<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK>(a, call.lhs, group_of, token, token_end, k);
      },
      [&](Scalar *slot, int slice) { fill_slice<Tile>(slot, slice, call.out, tile); });
  allow_next_launch();
  write_slices<Tile>(sum, shared, call.lhs.columns, warp_tile, call.out, tile, [&](int, float &first, float &second) {
    first *= call.scale;
    second *= call.scale;
  });
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void large_strip(const __grid_constant__ LargeStrip call) {
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  int index = blockIdx.x;
  wait_for_previous_launch();
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
    combine_block<typename Tile::Engine>(call.combine, reinterpret_cast<typename Tile::Scalar *>(shared), weights,
                                         index % call.combine_column_tiles, index / call.combine_column_tiles);
  else
    backward_router<typename Tile::Engine>(shared, call.router, index - call.combine_blocks);
}

}  // namespace lily::cuda
