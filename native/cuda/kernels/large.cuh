// Products of large ranks. Each block owns a BLOCK_M x BLOCK_N tile of the result and streams both operands through a
// ring of shared memory, in steps of BLOCK_K.
//
//   c[m, n] = sum_k a[m, k] b[k, n]
//
// Each of the four or eight warps owns as many 16 x 8 fragments of the tile and adds over all of k in ascending order,
// so a result does not depend on the tile shape. The fragments of the warps alternate, and those that lie outside the
// matrix are skipped: a rank is padded to a few fragments, not to the tile.
//
// The copies of the next stages overlap with the MMAs of the current one; the loads of the old result, if it is added
// to, with the MMAs of the last stages. A block of eight warps continues with further tiles, whose first copies overlap
// with the end of the one before.
//
// On Hopper the products of 16-bit operands use wgmma (tiles/wgmma.cuh): two warpgroups share a tile of 128 x
// 256. TMA with mbarriers could replace `fill`; the rest would not change.
#pragma once

#include "cuda/kernels/strip.cuh"
#include "cuda/tiles/wgmma.cuh"

namespace lily::cuda {

// Position of a warp's first fragment in the tile, and the number of its 16-row and 8-column fragments that lie within
// `rows` and `columns`. They are kStrideM rows and kStrideN columns apart.
template <typename Tile>
struct WarpTile {
  int m, n, fragments_m, fragments_n;
  int rows, columns;  // of the tile

  __device__ WarpTile(int rows_, int columns_) : rows(rows_), columns(columns_) {
    const int warp = threadIdx.x / kWarp;
    m = warp / Tile::kWarpsN * 16;
    n = warp % Tile::kWarpsN * 8;
    fragments_m = min(max((rows - m + Tile::kStrideM - 1) / Tile::kStrideM, 0), Tile::kWarpM);
    fragments_n = min(max((columns - n + Tile::kStrideN - 1) / Tile::kStrideN, 0), Tile::kWarpN);
  }
};

// Calls visit(column) for the first column of each panel of a tile of kColumns columns that are not along the sum.
template <int kColumns, int kPanel, typename Visit>
__device__ inline void for_each_panel(const Visit &visit) {
  if constexpr (kColumns == kPanel) {
    visit(0);
  } else {
#pragma unroll 1
    for (int column = 0; column < kColumns; column += kPanel) visit(column);
  }
}

template <typename Tile>
__device__ inline int large_steps(int depth) {
  return (depth + Tile::kBlockK - 1) / Tile::kBlockK;
}

// The slot of the ring that a step uses.
template <typename Tile>
__device__ inline typename Tile::Scalar *large_slot(char *shared, int step) {
  return reinterpret_cast<typename Tile::Scalar *>(shared) + step % Tile::kStages * Tile::kStage;
}

// The product of one stage at the edge of the matrix, over `depth` steps of the summed dimension, of a warp with at
// most kCount fragments in a row: one loop for each number of them.
template <typename Tile, Along kAlongA, Along kAlongB, int kCount = Tile::kWarpN>
__device__ inline void multiply_edge(Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, const typename Tile::Scalar *a,
                                     const typename Tile::Scalar *b, const WarpTile<Tile> &warp_tile, int depth) {
  using Loads = Fragments<typename Tile::Engine>;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
  if constexpr (kCount > 1) {
    if (warp_tile.fragments_n < kCount) {
      multiply_edge<Tile, kAlongA, kAlongB, kCount - 1>(sum, a, b, warp_tile, depth);
      return;
    }
  }
  if (warp_tile.fragments_n < kCount) return;
#pragma unroll 1
  for (int k = 0; k < depth; k += Tile::Engine::kStepK) {
    typename Loads::B b_fragments[kCount];
    Loads::template load_b<kAlongB, kColumnsB, Tile::kStrideN>(b_fragments, b, warp_tile.n, k);
#pragma unroll
    for (int i = 0; i < Tile::kWarpM; ++i) {
      if (i >= warp_tile.fragments_m) break;
      typename Loads::A a_fragment;
      Loads::template load_a<kAlongA, kColumnsA>(a_fragment, a, warp_tile.m + Tile::kStrideM * i, k);
#pragma unroll
      for (int j = 0; j < kCount; ++j) Loads::multiply(sum[i][j], a_fragment, b_fragments[j]);
    }
  }
}

// The first row of this warp's warpgroup in a tile.
__device__ inline int group_row() { return warp_of_block() / kGroupWarps * kGroupRows; }

// Begins the product of one stage by this warp's warpgroup. A warpgroup without rows has none.
template <typename Tile, Along kAlongA, Along kAlongB>
__device__ inline void begin_product(Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, const typename Tile::Scalar *a,
                                     const typename Tile::Scalar *b, const WarpTile<Tile> &warp_tile, bool adds) {
  using A = GroupOperand<kAlongA, Tile::kBlockK, Tile::kPanelM>;
  using B = GroupOperand<kAlongB, Tile::kBlockK, Tile::kPanelN>;
  if (group_row() < warp_tile.rows)
    multiply_group<typename Tile::Scalar, A, B, Tile::kSteps, Tile::kBlockN>(
        sum[0], A::descriptor(a, group_row()), B::descriptor(b, 0), warp_tile.columns, adds);
}

// Computes this warp's part of a tile of the product. fill(slot, step) loads one stage of both operands: a as
// [kBlockM][kBlockK] with Along::kDepth and as [kBlockK][kBlockM], or panels [kBlockK][kPanelM], with Along::kOuter;
// then b likewise. It is called for kStages - 1 steps beyond the last, and may then load something else. The slots of
// the ring are taken in turn from number `first` on; `filled`: the first kStages - 1 of them have been filled. When the
// copies of this thread have arrived in the slot of a step, and before other threads read them, drop(slot, step) may
// change them. The caller waits for the copies beyond the last step, and for the other warps.
template <typename Tile, Along kAlongA, Along kAlongB, typename Fill, typename Drop>
__device__ inline void large_sums(Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, char *shared, int first, bool filled,
                                  int depth, const WarpTile<Tile> &warp_tile, const Fill &fill, const Drop &drop) {
  using Scalar = typename Tile::Scalar;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
  const int steps = large_steps<Tile>(depth);
  const bool whole = warp_tile.fragments_m == Tile::kWarpM && warp_tile.fragments_n == Tile::kWarpN;
  if constexpr (Tile::kHasGroups)
    pin(sum[0]);
  else
    clear(sum);
#pragma unroll 1
  for (int step = filled ? 0 : 1 - Tile::kStages; step < steps;
       ++step) {  // the first only fill: its code is there once
    if (step >= 0) {
      copy_wait<Tile::kStages - 2>();
      drop(large_slot<Tile>(shared, first + step), step);
    }
    if constexpr (Tile::kHasGroups) {
      if (step >= 0) {
        show_to_wgmma();
        __syncthreads();
        const Scalar *a = large_slot<Tile>(shared, first + step);
        begin_product<Tile, kAlongA, kAlongB>(sum, a, a + Tile::kA, warp_tile, step > 0);
        wgmma_wait<1>();  // for the product of the step before
      }
    }
    __syncthreads();  // the slot is free, and so is the scratch memory, which `fill` may use
    fill(large_slot<Tile>(shared, first + step + Tile::kStages - 1), step + Tile::kStages - 1);
    copy_commit();
    reconverge();  // the products, and the wait for the last of wgmma, take whole warps
    if constexpr (!Tile::kHasGroups) {
      if (step < 0) continue;
      const Scalar *a = large_slot<Tile>(shared, first + step), *b = a + Tile::kA;
      const int remaining = depth - step * Tile::kBlockK;
      if (whole && remaining >= Tile::kBlockK)
        multiply<typename Tile::Engine, kAlongA, kColumnsA, kAlongB, kColumnsB, Tile::kStrideM, Tile::kStrideN>(
            sum, a, warp_tile.m, b, warp_tile.n, 0, Tile::kSteps);
      else
        multiply_edge<Tile, kAlongA, kAlongB>(sum, a, b, warp_tile, min(remaining, Tile::kBlockK));
    }
  }
  if constexpr (Tile::kHasGroups) {
    wgmma_wait<0>();
    pin(sum[0]);
    if (steps == 0 || group_row() >= warp_tile.rows) clear(sum);
  }
}

// ---- An output that a tile is added to: y, dx ----

// A slice of the output's tile in shared memory. The slots of four warps are those that follow the last step's.
template <typename Tile>
__device__ inline typename Tile::Scalar *output_slice(char *shared, int steps, int slice) {
  if constexpr (Tile::kContinues)
    return reinterpret_cast<typename Tile::Scalar *>(shared + Tile::kRing);
  else
    return large_slot<Tile>(shared, steps + slice);
}

// The rows of slice number `slice` of a tile of the output.
template <typename Tile>
__device__ inline Window slice_window(const Window &tile, int slice) {
  return {tile.row + slice * Tile::kSliceRows, tile.row_end, tile.column, tile.column_end};
}

// Loads a slice of the old output, if the result is added to it.
template <typename Tile>
__device__ inline void fill_slice(char *shared, int steps, int slice, const Output &output, const Window &tile) {
  if (slice < Tile::kSlices)
    stage_old<typename Tile::Engine, Tile::kSliceRows, Tile::kBlockN, Tile::kThreads>(
        output_slice<Tile>(shared, steps, slice), output, slice_window<Tile>(tile, slice));
}

// Adds the sums of all warps to the slices that fill_slice has loaded, and writes them. finish(n, first, second)
// completes the sums of the columns n and n + 1 after the warp's first. kDrops: there may be dropout.
template <typename Tile, bool kDrops, typename Finish>
__device__ inline void write_slices(const Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, char *shared, int steps,
                                    const WarpTile<Tile> &warp_tile, const Output &output, const Dropout &dropout,
                                    const Window &tile, const Finish &finish) {
  using Scalar = typename Tile::Scalar;
  for (int slice = 0; slice < Tile::kSlices; ++slice)
    load_old<typename Tile::Engine, Tile::kSliceRows, Tile::kBlockN, Tile::kThreads>(
        output_slice<Tile>(shared, steps, slice), output, slice_window<Tile>(tile, slice));
  for_each_pair<Tile::kStrideM, Tile::kStrideN>(sum, [&](int m, int n, float first, float second) {
    const int row = warp_tile.m + m;
    Scalar *pair = output_slice<Tile>(shared, steps, row / Tile::kSliceRows) +
                   place<Scalar, Tile::kBlockN>(row % Tile::kSliceRows, warp_tile.n + n);
    finish(n, first, second);
    add_pair(pair, first, second, output.accumulate);
  });
  __syncthreads();
  for (int slice = 0; slice < Tile::kSlices; ++slice)
    unstage<typename Tile::Engine, Tile::kSliceRows, Tile::kBlockN, Tile::kThreads, kDrops>(
        output_slice<Tile>(shared, steps, slice), output, slice_window<Tile>(tile, slice), dropout);
}

// Stores the sums of all warps to shared memory, over the ring, with kResultPitch floats per row, and returns them when
// all threads can read them.
template <typename Tile>
__device__ inline float *store_result(const Accumulators<Tile::kWarpM, Tile::kWarpN> &sum, char *shared,
                                      const WarpTile<Tile> &warp_tile) {
  copy_wait<0>();
  __syncthreads();
  auto *result = reinterpret_cast<float *>(shared);
  for_each_pair<Tile::kStrideM, Tile::kStrideN>(sum, [&](int m, int n, float first, float second) {
    store_pair(result + (warp_tile.m + m) * Tile::kResultPitch + warp_tile.n + n, first, second);
  });
  __syncthreads();
  return result;
}

}  // namespace lily::cuda
