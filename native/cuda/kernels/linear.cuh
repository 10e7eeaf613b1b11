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
};

// The bias of this lane's columns of the warp's part of a tile.
template <typename Tile>
__device__ inline void load_bias(float2 (&bias)[Tile::kWarpN], const Linear &call, int column) {
#pragma unroll
  for (int j = 0; j < Tile::kWarpN; ++j) bias[j] = make_float2(0, 0);
  if (call.bias.data == nullptr) return;
  with_type(typename Tile::Engine::Parameters{}, call.bias.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *values = static_cast<const T *>(call.bias.data);
    T raw[Tile::kWarpN][2];
#pragma unroll
    for (int j = 0; j < Tile::kWarpN; ++j)
#pragma unroll
      for (int v = 0; v < 2; ++v)
        raw[j][v] = values[min(column + 8 * j + static_cast<int>(threadIdx.x) % 4 * 2 + v, call.columns - 1)];
#pragma unroll
    for (int j = 0; j < Tile::kWarpN; ++j) bias[j] = make_float2(to_float(raw[j][0]), to_float(raw[j][1]));
  });
}

template <typename Tile, bool kTransposed>
__global__ __launch_bounds__(kThreads, kBlocks) void linear(const __grid_constant__ Linear call) {
  using Scalar = typename Tile::Scalar;
  constexpr Along kAlongWeight = kTransposed ? Along::kOuter : Along::kDepth;
  extern __shared__ __align__(16) char shared[];
  const int token = static_cast<int>(blockIdx.x) / call.column_tiles * Tile::kBlockM;
  const int column = static_cast<int>(blockIdx.x) % call.column_tiles * Tile::kBlockN;
  const Window tile = {token, min(token + Tile::kBlockM, call.tokens), column,
                       min(column + Tile::kBlockN, call.columns)};
  const WarpTile<Tile> warp_tile(static_cast<int>(tile.row_end) - token, tile.column_end - column);
  Accumulators<Tile::kWarpM, Tile::kWarpN> sum;
  wait_for_previous_launch();
  large_sums<Tile, Along::kDepth, kAlongWeight>(
      sum, shared, call.depth, warp_tile,
      [&](Scalar *a, Scalar *b, int step) {
        const int k = step * Tile::kBlockK;
        stage_activations<typename Tile::Engine, Tile::kBlockM, Tile::kBlockK>(a, call.x,
                                                                               {token, tile.row_end, k, call.depth});
        if constexpr (kTransposed)
          stage_parameters<typename Tile::Engine, Tile::kBlockK, Tile::kBlockN>(b, call.weight,
                                                                                {k, call.depth, column, call.columns});
        else
          stage_parameters<typename Tile::Engine, Tile::kBlockN, Tile::kBlockK>(b, call.weight,
                                                                                {column, call.columns, k, call.depth});
      },
      [&](Scalar *slot, int slice) { fill_slice<Tile>(slot, slice, call.y, tile); });
  float2 bias[Tile::kWarpN];
  load_bias<Tile>(bias, call, column + warp_tile.n);
  write_slices<Tile>(sum, shared, call.depth, warp_tile, call.y, tile, [&](int n, float &first, float &second) {
    first += bias[n / 8].x;
    second += bias[n / 8].y;
  });
}

}  // namespace lily::cuda
