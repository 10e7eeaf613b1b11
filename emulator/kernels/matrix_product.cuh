// C [m, n] = A [m, k] B [k, n] in half or bfloat16 with float accumulators; row-major, k and n multiples of 8.
//
// A block of four warps computes a 32 x 32 tile in steps of 32 along k, with a ring of three stages: while one stage is
// multiplied, the copies into the next two are in flight. Each warp computes 16 x 16 of the tile.
#pragma once

#include "tensor_core.cuh"

// Planted mistakes, each of which the emulator must find or turn into a wrong result.
enum class Mutation { kNone, kSwappedOperands, kDroppedTranspose, kWeakWait, kMissingBarrier, kOffByOne };

constexpr int kTile = 32, kStages = 3, kThreads = 128;
constexpr int kPitch = kTile + 8;  // 80 bytes: the eight rows of a matrix are in different banks

template <class T, Mutation kMutation>
__global__ void __launch_bounds__(kThreads) matrix_product(const T *a, const T *b, float *c, int m, int n, int k) {
  __shared__ __align__(16) T tile_a[kStages][kTile][kPitch], tile_b[kStages][kTile][kPitch];
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.x * kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
  const int steps = (k + kTile - 1) / kTile;

  const auto copy = [&](int step) {
    if (step < steps) {
      const int r = threadIdx.x / 4, q = threadIdx.x % 4 * 8;
      const int row_a = first_row + r, column_a = step * kTile + q;
      const int row_b = step * kTile + r, column_b = first_column + q;
      const bool in_rows = kMutation == Mutation::kOffByOne ? row_a <= m : row_a < m;
      const bool in_a = in_rows && column_a < k, in_b = row_b < k && column_b < n;
      copy_async(&tile_a[step % kStages][r][q], in_a ? a + row_a * k + column_a : a, in_a);
      copy_async(&tile_b[step % kStages][r][q], in_b ? b + row_b * n + column_b : b, in_b);
    }
    commit_copies();
  };

  float sum[2][4] = {};
  for (int step = 0; step < kStages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    wait_copies<kMutation == Mutation::kWeakWait ? kStages - 1 : kStages - 2>();
    if constexpr (kMutation != Mutation::kMissingBarrier) __syncthreads();
    copy(step + kStages - 1);
    for (int kk = 0; kk < kTile; kk += 16) {
      uint32_t fragment_a[4], fragment_b[4];
      load_matrices<false>(fragment_a, &tile_a[step % kStages][warp_row + lane % 16][kk + lane / 16 * 8]);
      load_matrices<kMutation != Mutation::kDroppedTranspose>(
          fragment_b, &tile_b[step % kStages][kk + lane % 16][warp_column + lane / 16 * 8]);
      for (int j = 0; j < 2; ++j) {
        constexpr int kSwap = kMutation == Mutation::kSwappedOperands;
        multiply<T>(sum[j], fragment_a, fragment_b[2 * j + kSwap], fragment_b[2 * j + 1 - kSwap]);
      }
    }
  }
  wait_copies<0>();

  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + warp_row + lane / 4 + i / 2 * 8;
      const int column = first_column + warp_column + j * 8 + lane % 4 * 2 + i % 2;
      if (row < m && column < n) c[row * n + column] = sum[j][i];
    }
  }
}
