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
  int expand_blocks, tiles_each;
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
  const int row = at.row_tile * call.target.tile_rows, column = at.column_tile * Tile::kBlockN;
  const int row_end = min(row + call.target.tile_rows, call.lhs.columns);
  const int token = at.split * call.split_tokens, token_end = min(token + call.split_tokens, call.tokens);
  const float *z = large_product<Tile, Along::kOuter, Along::kOuter>(
      shared, call.with_gradient.none() ? 0 : max(token_end - token, 0), row_end - row, call.columns - column,
      [&](Scalar *a, Scalar *b, int step) {
        const int first = token + step * Tile::kBlockK;
        for_each_panel<Tile::kBlockM, Tile::kPanelM>([&](int m) {
          stage_activations<typename Tile::Engine, Tile::kBlockK, Tile::kPanelM, Tile::kThreads>(
              a + m * Tile::kBlockK, call.lhs.hidden, {first, token_end, row + m, row_end});
        });
        for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
          stage_activations<typename Tile::Engine, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(
              b + n * Tile::kBlockK, call.x, {first, token_end, column + n, call.columns});
        });
      });
  allow_next_launch();
  finish_outer<Tile>(z, call.target, at);
  form_d_weights<Tile>(shared, call.d_weights, at, call.target, index);
}

// Tiles index * tiles_each and following of the output, those of the same tokens one after the other.
template <typename Tile>
__device__ __forceinline__ void large_expand(char *shared, float *weights, const LargeStrip &call, int index) {
  using Scalar = typename Tile::Scalar;
  const int column_tiles = (call.columns + Tile::kBlockN - 1) / Tile::kBlockN;
  const int token_tiles = (call.tokens + Tile::kBlockM - 1) / Tile::kBlockM;
  const int first = index * call.tiles_each, tiles = min(call.tiles_each, column_tiles * token_tiles - first);
  const bool combines = call.w.data == nullptr;
  if (combines || (index == 0 && call.weights_out != nullptr)) {
    compute_weights(weights, call.weights);
    if (index == 0 && call.weights_out != nullptr)
      for (int e = threadIdx.x; e < call.weights.experts; e += Tile::kThreads) call.weights_out[e] = weights[e];
  }
  int *group_of = reinterpret_cast<int *>(shared + Tile::kGroups);
  write_tiles<Tile, Along::kDepth, Along::kOuter>(
      shared, call.lhs.columns, tiles, call.out,
      [&](int i) -> Window {
        const int token = (first + i) / column_tiles * Tile::kBlockM,
                  column = (first + i) % column_tiles * Tile::kBlockN;
        return {token, min(token + Tile::kBlockM, call.tokens), column, min(column + Tile::kBlockN, call.columns)};
      },
      [&](Scalar *a, Scalar *b, const Window &tile, int step) {
        const int k = step * Tile::kBlockK;
        const int token = static_cast<int>(tile.row), token_end = static_cast<int>(tile.row_end);
        copy_lhs<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(a, call.lhs, token, token_end, k);
        for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
          Scalar *panel = b + n * Tile::kBlockK;
          if (combines)
            combine_tile<typename Tile::Engine, Tile::kBlockK, Tile::kPanelN, true, true, Tile::kThreads>(
                panel, call.experts, weights, k, tile.column + n);
          else
            stage<Scalar, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(
                panel, call.w, {k, call.lhs.columns, tile.column + n, call.columns});
        });
        compute_lhs<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(a, call.lhs, group_of, token,
                                                                                         token_end, k);
      },
      [&](const Window &, const WarpTile<Tile> &) {
        return [scale = call.scale](int, float &first, float &second) {
          first *= scale;
          second *= scale;
        };
      });
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocks) void large_strip(const __grid_constant__ LargeStrip call) {
  if constexpr (!kHasCode<Tile, Tile::kStripBytes>) return;
  extern __shared__ __align__(kLargeAlignment) char large_shared[];
  char *const shared = large_shared;
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
    combine_block<typename Tile::Engine, true, Tile::kThreads>(
        call.combine, reinterpret_cast<typename Tile::Scalar *>(shared), weights, index % call.combine_column_tiles,
        index / call.combine_column_tiles);
  else
    backward_router<typename Tile::Engine, Tile::kThreads>(shared, call.router, index - call.combine_blocks);
}

}  // namespace lily::cuda
