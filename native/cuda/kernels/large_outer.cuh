// The gradients of large ranks: sums over tokens. Symbols as in docs/math.md.
//
//   D = s h^T dy    dw_e = <B_e, D>, as partial sums    dA = dh^T x    dR = dl^T h
//
// Two launches with a router, because dh depends on dw: first D and dw, then dA and dR. One otherwise. Each block owns
// `tile_rows` rows and BLOCK_N columns of the gradient and sums over one split of the tokens. Global memory traffic:
// each operand once per tile of the other dimension, all but the first time from L2; the gradient is written once.
#pragma once

#include "cuda/kernels/backward_x.cuh"
#include "cuda/kernels/large.cuh"

namespace lily::cuda {

// lhs^T x.
struct OuterProduct {
  Operand lhs;      // M x r: h or dh
  Operand x;        // M x columns: dy or x
  Dropout dropout;  // of x
  int columns;
  int column_tiles, splits;  // of columns, of tokens
  int split_tokens;
  int blocks;
  OuterTarget target;
};

struct LargeOuter {
  OuterProduct products[2];
  int tokens, rank;
  DWeights d_weights;  // of the first
  TokensWithGradient with_gradient;
  RouterBlocks router;  // the last blocks
};

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocks) void large_outer(const __grid_constant__ LargeOuter call) {
  if constexpr (!kHasCode<Tile, Tile::kOuterBytes>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(kLargeAlignment) char large_shared[];
  char *const shared = large_shared;
  const bool is_first = static_cast<int>(blockIdx.x) < call.products[0].blocks;
  const OuterProduct &product = call.products[is_first ? 0 : 1];
  const int index = static_cast<int>(blockIdx.x) - (is_first ? 0 : call.products[0].blocks);
  wait_for_previous_launch();
  if (index >= product.blocks) {
    backward_router<typename Tile::Engine, Tile::kThreads>(shared, call.router, index - product.blocks);
    return;
  }
  StripIndex at;
  at.column_tile = index % product.column_tiles;
  at.split = index / product.column_tiles % product.splits;
  at.row_tile = index / product.column_tiles / product.splits;
  const int row = at.row_tile * product.target.tile_rows, column = at.column_tile * Tile::kBlockN;
  const int row_end = min(row + product.target.tile_rows, call.rank);
  const int token = at.split * product.split_tokens, token_end = min(token + product.split_tokens, call.tokens);
  const int depth = call.with_gradient.none() ? 0 : max(token_end - token, 0), steps = large_steps<Tile>(depth);
  const WarpTile<Tile> warp_tile(row_end - row, product.columns - column);
  Accumulators<Tile::kWarpM, Tile::kWarpN> sum;
  const auto x_window = [&](int step, int n) -> Window {
    return {token + step * Tile::kBlockK, token_end, column + n, product.columns};
  };
  const auto fill = [&](Scalar *slot, int step) {
    if (step >= steps) return;
    const int first = token + step * Tile::kBlockK;
    for_each_panel<Tile::kBlockM, Tile::kPanelM>([&](int m) {
      stage<Scalar, Tile::kBlockK, Tile::kPanelM, Tile::kThreads>(slot + m * Tile::kBlockK, product.lhs,
                                                                  {first, token_end, row + m, row_end});
    });
    for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
      stage<Scalar, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(slot + Tile::kA + n * Tile::kBlockK, product.x,
                                                                  x_window(step, n));
    });
  };
  const auto drop_x = [&](Scalar *slot, int step) {
    if (!product.dropout.drops()) return;
    for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
      drop<Scalar, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(slot + Tile::kA + n * Tile::kBlockK, product.dropout,
                                                                 x_window(step, n));
    });
  };
  large_sums<Tile, Along::kOuter, Along::kOuter>(sum, shared, 0, false, depth, warp_tile, fill, drop_x);
  const float *z = store_result<Tile>(sum, shared, warp_tile);
  allow_next_launch();
  finish_outer<Tile>(z, product.target, at);
  if (is_first) form_d_weights<Tile>(shared, call.d_weights, at, product.target, index);
}

}  // namespace lily::cuda
