// A frozen linear layer: the product of activations with its weight W, d_out x d_in.
//
//   y (+)= x W^T + bias    the rows of W are along the sum
//   dx (+)= dy W           the columns of W are along the sum
//
// The main loop is that of large ranks (large.cuh): a block owns a tile of the result, and a row of it depends neither
// on the tile nor on the other rows.
//
// Global memory traffic: x once per tile of columns, and W once per tile of tokens; all but the first time from L2. y
// is written once, and read once if it accumulates.
#pragma once

#include "cuda/kernels/large.cuh"

namespace lily::cuda {

struct Linear {
  Operand x;       // M x depth
  Operand weight;  // columns x depth; transposed: depth x columns
  Operand bias;    // 1 x columns; data null: none
  Output y;        // M x columns
  int tokens;      // M
  int depth;       // d_in; transposed: d_out
  int columns;     // d_out; transposed: d_in
  int column_tiles;
  int tiles_each;  // per block
};

// The bias of this lane's columns of the warp's part of a tile, which begins at `column`.
template <typename Tile>
struct Bias {
  float2 pair[Tile::kWarpN];

  __device__ Bias(const Linear &call, int column) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpN; ++j) pair[j] = make_float2(0, 0);
    if (call.bias.data == nullptr) return;
    with_type(typename Tile::Engine::Parameters{}, call.bias.dtype, [&](auto tag) {
      using T = decltype(tag);
      const T *values = static_cast<const T *>(call.bias.data);
      const int first = column + static_cast<int>(threadIdx.x) % 4 * 2;
      T raw[Tile::kWarpN][2];
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j)
#pragma unroll
        for (int v = 0; v < 2; ++v) raw[j][v] = values[min(first + Tile::kStrideN * j + v, call.columns - 1)];
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j) pair[j] = make_float2(to_float(raw[j][0]), to_float(raw[j][1]));
    });
  }

  __device__ void operator()(int n, float &first, float &second) const {
    first += pair[n / Tile::kStrideN].x;
    second += pair[n / Tile::kStrideN].y;
  }
};

template <typename Tile, bool kTransposed>
__global__ __launch_bounds__(Tile::kThreads, Tile::kProductBlocks) void linear(const __grid_constant__ Linear call) {
  if constexpr (!kHasCode<Tile, Tile::kStripBytes>) return;
  using Scalar = typename Tile::Scalar;
  constexpr Along kAlongWeight = kTransposed ? Along::kOuter : Along::kDepth;
  extern __shared__ __align__(kLargeAlignment) char large_shared[];
  char *const shared = large_shared;
  const int token_tiles = (call.tokens + Tile::kBlockM - 1) / Tile::kBlockM;
  const int first = static_cast<int>(blockIdx.x) * call.tiles_each;
  const int tiles = min(call.tiles_each, call.column_tiles * token_tiles - first);
  wait_for_previous_launch();
  write_tiles<Tile, Along::kDepth, kAlongWeight>(
      shared, call.depth, tiles, call.y,
      [&](int i) -> Window {
        const int token = (first + i) / call.column_tiles * Tile::kBlockM;
        const int column = (first + i) % call.column_tiles * Tile::kBlockN;
        return {token, min(token + Tile::kBlockM, call.tokens), column, min(column + Tile::kBlockN, call.columns)};
      },
      [&](Scalar *a, Scalar *b, const Window &tile, int step) {
        const int k = step * Tile::kBlockK;
        stage_activations<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(
            a, call.x, {tile.row, tile.row_end, k, call.depth});
        if constexpr (kTransposed)
          for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
            stage_parameters<typename Tile::Engine, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(
                b + n * Tile::kBlockK, call.weight, {k, call.depth, tile.column + n, call.columns});
          });
        else
          stage_parameters<typename Tile::Engine, Tile::kBlockN, Tile::kBlockK, Tile::kThreads>(
              b, call.weight, {tile.column, call.columns, k, call.depth});
      },
      [&](const Window &tile, const WarpTile<Tile> &warp_tile) { return Bias<Tile>(call, tile.column + warp_tile.n); });
}

}  // namespace lily::cuda
