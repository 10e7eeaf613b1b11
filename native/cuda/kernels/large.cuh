// Products of large ranks. Each block owns a BLOCK_M x BLOCK_N tile of the result and streams both operands through a
// ring of shared memory, in steps of BLOCK_K.
//
//   c[m, n] = sum_k a[m, k] b[k, n]
//
// Each of the four warps owns a quarter of the tile and adds over all of k in ascending order, so a result does not
// depend on the tile shape. 16 x 8 fragments that lie outside the matrix are skipped: a rank is padded to a multiple of
// 8 or 16, not of the tile.
//
// The copies of the next stages overlap with the MMAs of the current one; those of the old result, if it is added to,
// with the MMAs of the last stages.
//
// On Hopper, wgmma could replace `multiply` here (tiles of 128 x 256 by two warpgroups, operands by descriptors with
// the 128-byte swizzle, which is the permutation of `place`), and TMA with mbarriers could replace `fill`; the rest
// would not change.
#pragma once

#include "cuda/kernels/d_hidden.cuh"
#include "cuda/kernels/gradient.cuh"

namespace lily::cuda {

// Position of a warp's share of the tile, and the number of its 16-row and 8-column fragments that lie within the
// matrix.
template <typename Tile>
struct WarpTile {
  int m, n, fragments_m, fragments_n;

  __device__ WarpTile(int rows, int columns) {
    const int warp = threadIdx.x / kWarp;
    m = warp / Tile::kWarpsN * Tile::kWarpM * 16;
    n = warp % Tile::kWarpsN * Tile::kWarpN * 8;
    fragments_m = min(max((rows - m + 15) / 16, 0), Tile::kWarpM);
    fragments_n = min(max((columns - n + 7) / 8, 0), Tile::kWarpN);
  }
};

template <typename Tile>
__device__ inline int large_steps(int depth) {
  return (depth + Tile::kBlockK - 1) / Tile::kBlockK;
}

// The slot of the ring that a step uses.
template <typename Tile>
__device__ inline typename Tile::Scalar *large_slot(char *shared, int step) {
  return reinterpret_cast<typename Tile::Scalar *>(shared) + step % Tile::kStages * Tile::kStage;
}

// The product of one stage at the edge of the matrix, over `depth` steps of the summed dimension.
template <typename Tile, Along kAlongA, Along kAlongB>
__device__ inline void multiply_edge(Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, const typename Tile::Scalar *a,
                                     const typename Tile::Scalar *b, const WarpTile<Tile> &warp_tile, int depth) {
  using Loads = Fragments<typename Tile::Engine>;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
#pragma unroll 1
  for (int k = 0; k < depth; k += Tile::Engine::kStepK) {
    typename Loads::B b_fragments[Tile::kWarpN];
    Loads::template load_b<kAlongB, kColumnsB>(b_fragments, b, warp_tile.n, k);
#pragma unroll
    for (int i = 0; i < Tile::kWarpM; ++i) {
      if (i >= warp_tile.fragments_m) break;
      typename Loads::A a_fragment;
      Loads::template load_a<kAlongA, kColumnsA>(a_fragment, a, warp_tile.m + 16 * i, k);
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j)
        if (j < warp_tile.fragments_n) Loads::multiply(sum[i][j], a_fragment, b_fragments[j]);
    }
  }
}

// Computes this warp's part of `rows` x `columns` elements of the product (at most the tile's size). fill(a, b, step)
// loads one stage of both operands: a as [kBlockM][kBlockK] with Along::kDepth and as [kBlockK][kBlockM] with
// Along::kOuter; b likewise. When there are no more stages to load, fill_after(slot, i) may load something else into
// slot number `steps` + i of the ring, for i from 0 to kStages - 2. The caller waits for the copies of the latter, and
// for the other warps.
template <typename Tile, Along kAlongA, Along kAlongB, typename Fill, typename FillAfter>
__device__ inline void large_sums(Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, char *shared, int depth,
                                  const WarpTile<Tile> &warp_tile, const Fill &fill, const FillAfter &fill_after) {
  using Scalar = typename Tile::Scalar;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
  const int steps = large_steps<Tile>(depth);
  const auto fill_step = [&](int step) {
    Scalar *slot = large_slot<Tile>(shared, step);
    if (step < steps)
      fill(slot, slot + Tile::kA, step);
    else
      fill_after(slot, step - steps);
    copy_commit();
  };
  const bool whole = warp_tile.fragments_m == Tile::kWarpM && warp_tile.fragments_n == Tile::kWarpN;
  clear(sum);
#pragma unroll 1
  for (int step = 1 - Tile::kStages; step < steps; ++step) {  // the first steps only fill: its code is there once
    if (step >= 0) copy_wait<Tile::kStages - 2>();
    __syncthreads();  // the slot is free, and so is the scratch memory, which `fill` may use
    fill_step(step + Tile::kStages - 1);
    if (step < 0) continue;
    reconverge();
    const Scalar *a = large_slot<Tile>(shared, step), *b = a + Tile::kA;
    const int remaining = depth - step * Tile::kBlockK;
    if (whole && remaining >= Tile::kBlockK)
      multiply<typename Tile::Engine, kAlongA, kColumnsA, kAlongB, kColumnsB>(sum, a, warp_tile.m, b, warp_tile.n, 0,
                                                                              Tile::kSteps);
    else
      multiply_edge<Tile, kAlongA, kAlongB>(sum, a, b, warp_tile, min(remaining, Tile::kBlockK));
  }
}

// ---- An output that a tile is added to: y, dx ----

// The rows of slice number `slice` of a tile of the output.
template <typename Tile>
__device__ inline Window slice_window(const Window &tile, int slice) {
  return {tile.row + slice * Tile::kSliceRows, tile.row_end, tile.column, tile.column_end};
}

// Loads a slice of the old output, if the result is added to it: the fill_after of large_sums.
template <typename Tile>
__device__ inline void fill_slice(typename Tile::Scalar *slot, int slice, const Output &output, const Window &tile) {
  if (slice < Tile::kSlices && output.accumulate)
    stage_activations<typename Tile::Engine, Tile::kSliceRows, Tile::kBlockN>(slot, output.operand(),
                                                                              slice_window<Tile>(tile, slice));
}

// Adds the sums of all warps to the slices that fill_slice has loaded, and writes them. finish(n, first, second)
// completes the sums of columns n and n + 1 of the warp's part.
template <typename Tile, typename Finish>
__device__ inline void write_slices(const Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, char *shared, int depth,
                                    const WarpTile<Tile> &warp_tile, const Output &output, const Window &tile,
                                    const Finish &finish) {
  using Scalar = typename Tile::Scalar;
  const int steps = large_steps<Tile>(depth);
  copy_wait<0>();
  __syncthreads();
  for_each_pair(sum, [&](int m, int n, float first, float second) {
    const int row = warp_tile.m + m;
    Scalar *pair = large_slot<Tile>(shared, steps + row / Tile::kSliceRows) +
                   place<Scalar, Tile::kBlockN>(row % Tile::kSliceRows, warp_tile.n + n);
    finish(n, first, second);
    add_pair(pair, first, second, output.accumulate);
  });
  __syncthreads();
  for (int slice = 0; slice < Tile::kSlices; ++slice)
    unstage<typename Tile::Engine, Tile::kSliceRows, Tile::kBlockN>(large_slot<Tile>(shared, steps + slice), output,
                                                                    slice_window<Tile>(tile, slice));
}

// The same product in shared memory, kResultPitch floats per row, readable by all threads.
template <typename Tile, Along kAlongA, Along kAlongB, typename Fill>
__device__ inline float *large_product(char *shared, int depth, int rows, int columns, const Fill &fill) {
  const WarpTile<Tile> warp_tile(rows, columns);
  Accumulators<Tile::kWarpM, Tile::kWarpN> sum;
  large_sums<Tile, kAlongA, kAlongB>(sum, shared, depth, warp_tile, fill, [](typename Tile::Scalar *, int) {});
  copy_wait<0>();
  __syncthreads();
  auto *result = reinterpret_cast<float *>(shared);
  for_each_pair(sum, [&](int m, int n, float first, float second) {
    store_pair(result + (warp_tile.m + m) * Tile::kResultPitch + warp_tile.n + n, first, second);
  });
  __syncthreads();
  return result;
}

}  // namespace lily::cuda
