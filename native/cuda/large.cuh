// Products of large ranks: a block owns a tile of the result and streams both operands through a ring of shared memory.
//
//   c[m][n] = sum_k a[m][k] b[k][n]
//
// Each of the four warps owns a quarter of the tile, and all of k in its order: so a number does not depend on the
// tile. Blocks of 16 rows and 8 columns that lie wholly beyond the matrix are left out; a rank is padded to 8 or 16, no
// more.
//
// On Hopper wgmma would take the place of `multiply` here (tiles of 128 x 256 by two warpgroups, operands by
// descriptors of 128-byte swizzle, for which `place` has the permutation already), and TMA with its barriers that of
// `fill`; what surrounds them stays.
#pragma once

#include "gradient.cuh"

namespace lily::cuda {

template <typename Engine_, int kBlockM_, int kBlockN_, int kBlockK_, int kStages_>
struct LargeTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kBlockK = kBlockK_, kStages = kStages_;
  static constexpr int kA = kBlockM * kBlockK, kStage = (kBlockM + kBlockN) * kBlockK;  // numbers
  static constexpr int kWarpsDown = kBlockM >= 32 ? 2 : 1, kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kWarpM = kBlockM / 16 / kWarpsDown, kWarpN = kBlockN / 8 / kWarpsAcross;
  using Sums = Accumulators<kWarpM, kWarpN>;
  // The result in shared memory, floats; finish_outer calls its sides rank and columns.
  static constexpr int kResultRows = kBlockM, kResultPitch = kBlockN + 8, kResult = kBlockM * kResultPitch;
  static constexpr int kRing = kStages * kStage * static_cast<int>(sizeof(Scalar));
  static constexpr int kSteps = kBlockK / Engine::kStepK;

  // Bytes of shared memory: the ring, then the result in its place; what forms operands lies behind both.
  static constexpr int kScratch = (kRing > kResult * 4 ? kRing : kResult * 4) + kWarps * 4;
  static int bytes(int experts) { return kScratch + lhs_scratch(kBlockM, experts) * 4; }
};

// Where a warp's part begins, and how many of its blocks lie within the matrix.
template <typename Tile>
struct WarpTile {
  int down, across, blocks_m, blocks_n;

  __device__ WarpTile(int rows, int columns) {
    const int warp = threadIdx.x / kWarp;
    down = warp / Tile::kWarpsAcross * Tile::kWarpM * 16;
    across = warp % Tile::kWarpsAcross * Tile::kWarpN * 8;
    blocks_m = min(max((rows - down + 15) / 16, 0), Tile::kWarpM);
    blocks_n = min(max((columns - across + 7) / 8, 0), Tile::kWarpN);
  }
};

// One stage's part of a product, of which `depth` are left, at the edge of a matrix.
template <typename Tile, Along kAlongA, Along kAlongB>
__device__ inline void multiply_edge(typename Tile::Sums &sum, const typename Tile::Scalar *a,
                                     const typename Tile::Scalar *b, const WarpTile<Tile> &warp_tile, int depth) {
  using Loads = Fragments<typename Tile::Engine>;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
#pragma unroll 1
  for (int k = 0; k < depth; k += Tile::Engine::kStepK) {
    typename Loads::B b_fragments[Tile::kWarpN];
    Loads::template load_b<kAlongB, kColumnsB>(b_fragments, b, warp_tile.across, k);
#pragma unroll
    for (int i = 0; i < Tile::kWarpM; ++i) {
      if (i >= warp_tile.blocks_m) break;
      typename Loads::A a_fragment;
      Loads::template load_a<kAlongA, kColumnsA>(a_fragment, a, warp_tile.down + 16 * i, k);
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j)
        if (j < warp_tile.blocks_n) Loads::multiply(sum[i][j], a_fragment, b_fragments[j]);
    }
  }
}

// Leaves the tile's `rows` x `columns` (at most its own) in shared memory, kResultPitch floats a row, for all threads
// to read. fill(a, b, step) brings step's part of the operands: of a [kM][kDepth] with Along::kDepth, [kDepth][kM] with
// kOuter, of b likewise.
template <typename Tile, Along kAlongA, Along kAlongB, typename Fill>
__device__ inline float *large_product(char *shared, int depth, int rows, int columns, const Fill &fill) {
  using Scalar = typename Tile::Scalar;
  constexpr int kColumnsA = kAlongA == Along::kDepth ? Tile::kBlockK : Tile::kBlockM;
  constexpr int kColumnsB = kAlongB == Along::kDepth ? Tile::kBlockK : Tile::kBlockN;
  auto *ring = reinterpret_cast<Scalar *>(shared);
  const int steps = (depth + Tile::kBlockK - 1) / Tile::kBlockK;
  const auto fill_step = [&](int step) {
    Scalar *a = ring + step % Tile::kStages * Tile::kStage;
    if (step < steps) fill(a, a + Tile::kA, step);
    copy_commit();
  };
  const WarpTile<Tile> warp_tile(rows, columns);
  const bool whole = warp_tile.blocks_m == Tile::kWarpM && warp_tile.blocks_n == Tile::kWarpN;
  typename Tile::Sums sum;
  clear(sum);
  for (int step = 0; step < Tile::kStages - 1; ++step) {
    fill_step(step);
    __syncthreads();  // filling may go through scratch memory
  }
  for (int step = 0; step < steps; ++step) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    fill_step(step + Tile::kStages - 1);
    const Scalar *a = ring + step % Tile::kStages * Tile::kStage, *b = a + Tile::kA;
    const int remaining = depth - step * Tile::kBlockK;
    if (whole && remaining >= Tile::kBlockK)
      multiply<typename Tile::Engine, kAlongA, kColumnsA, kAlongB, kColumnsB>(sum, a, warp_tile.down, b,
                                                                              warp_tile.across, 0, Tile::kSteps);
    else
      multiply_edge<Tile, kAlongA, kAlongB>(sum, a, b, warp_tile, min(remaining, Tile::kBlockK));
  }
  copy_wait<0>();
  __syncthreads();
  auto *result = reinterpret_cast<float *>(shared);
  for_each_pair(sum, [&](int m, int n, float first, float second) {
    store_pair(result + (warp_tile.down + m) * Tile::kResultPitch + warp_tile.across + n, first, second);
  });
  __syncthreads();
  return result;
}

}  // namespace lily::cuda
