// Forward, second phase with one pooling group: adds the adapter's output to y. Symbols as in docs/math.md.
//
//   y (+)= s h C
//
// Each block combines its BLOCK_N columns of C once and iterates over tokens in tiles of BLOCK_M.
//
// Global memory traffic: y written once, and read once if it accumulates; B once per split of the tokens; h and the
// router's partial sums from L2.
#pragma once

#include "cuda/kernels/combine.cuh"

namespace lily::cuda {

struct ForwardExpand {
  StripOperands strip;
  Experts experts;
  Weights weights;
  float *weights_out;  // E; may be null
  int column_tiles;
};

template <typename Tile>
__device__ __forceinline__ void forward_expand_block(const ForwardExpand &call, const Block &block) {
  if constexpr (!kHasCode<Tile, kExpandBytes<Tile>>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  const StripIndex at = {block.x % call.column_tiles, block.x / call.column_tiles, 0};
  const int column = at.column_tile * Tile::kBlockN;
  wait_for_previous_launch();
  bool has_weights = false;
  walk_strip<Tile, true, false>(shared, call.strip, at, true, false, [&](Scalar *tile, int row) {
    if (!has_weights) {
      compute_weights(weights, call.weights);
      if (block.x == 0 && call.weights_out != nullptr)
        for (int e = threadIdx.x; e < call.weights.experts; e += Tile::kThreads) call.weights_out[e] = weights[e];
      has_weights = true;
    }
    combine_tile<typename Tile::Engine, Tile::kBlockK, Tile::kBlockN, true, Tile::kThreads>(tile, call.experts, weights,
                                                                                            row, column);
  });
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kBlocks) void forward_expand(const __grid_constant__ ForwardExpand call) {
  forward_expand_block<Tile>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kBlocks) void forward_expand_list(const __grid_constant__ List<ForwardExpand> list) {
  run_part(list, [](const ForwardExpand &call, const Block &at) { forward_expand_block<Tile>(call, at); });
}

}  // namespace lily::cuda
