// Sums per sequence, in an order that depends only on the sequence. Symbols as in docs/math.md.
//
// Forward: w_g, the mean of p over a sequence's kept tokens, or the softmax of their summed logits; a separate launch,
// because otherwise every block of the next phase reads the probabilities of whole sequences. Backward: dw_g, the sum
// of dw_te = <h_t, v_te> over all of its tokens; backward_hidden.cuh adds it in the blocks that need it, and
// mixture.cuh adds the dw of given weights.
//
// The order: a row belongs to one of kPoolSlices x 32 lanes by its index within the sequence. Each lane adds its rows
// in order, then the lanes of a slice are added, then the slices in order. Any number of warps can share the slices, so
// a kernel has as many loads in flight as its sequences are long.
#pragma once

#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

enum class PoolKind { kMean, kSoftmax };

struct PoolRows {
  const float *values;  // M x pitch
  int pitch;
  int experts;
  const uint8_t *mask;  // may be null: all rows are kept
  int drops;            // 1: only kept rows are added
};

// Number of slices that have rows.
__device__ inline int pool_slices(int begin, int end) { return min((end - begin + kWarp - 1) / kWarp, kPoolSlices); }

template <bool kWhole>
__device__ inline void add_pool_slice(const PoolRows &from, int begin, int end, int slice, int expert,
                                      float (&sum)[5]) {
  constexpr int kLoadsInFlight = kWhole ? 8 : 4, kStep = kPoolSlices * kWarp;
#pragma unroll 1
  for (int first = begin + slice * kWarp + static_cast<int>(threadIdx.x % kWarp); first < end;
       first += kLoadsInFlight * kStep) {
    float4 raw[kLoadsInFlight];
    uint8_t keeps[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const int row = min(first + i * kStep, end - 1);
      raw[i] = load_raw<kWhole>(from.values + static_cast<int64_t>(row) * from.pitch + expert, from.experts - expert);
      keeps[i] = 1;
    }
    if (from.mask != nullptr) {
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) keeps[i] = from.mask[min(first + i * kStep, end - 1)];
    }
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const bool inside = first + i * kStep < end, adds = inside && (keeps[i] != 0 || !from.drops);
      float value[4];
      convert<float>(raw[i], value);
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] = adds ? sum[v] + value[v] : sum[v];
      sum[4] = inside && keeps[i] != 0 ? sum[4] + 1 : sum[4];
    }
  }
}

// A slice's share of the sums of columns expert .. expert + 3 over the rows [begin, end), followed by its number of
// kept rows. One warp computes it, and all of its lanes return the same.
__device__ inline void pool_slice(const PoolRows &from, int begin, int end, int slice, int expert, float (&sum)[5]) {
  const bool whole = reinterpret_cast<uintptr_t>(from.values) % 16 == 0 && from.pitch % 4 == 0;
#pragma unroll
  for (int v = 0; v < 5; ++v) sum[v] = 0;
  with_whole(whole && from.experts - expert >= 4,
             [&](auto is_whole) { add_pool_slice<decltype(is_whole)::value>(from, begin, end, slice, expert, sum); });
#pragma unroll
  for (int v = 0; v < 5; ++v) sum[v] = sum_over_warp(sum[v]);
}

// sum = the sums of the E columns over the rows [begin, end), followed by their number of kept rows. A block of any
// number of warps up to kPoolSlices computes it; ends with a barrier.
__device__ inline void pool_sums(const PoolRows &from, int begin, int end, float *sum) {
  __shared__ float slices[kPoolSlices][kMostExperts + 1];
  const int count = pool_slices(begin, end), experts = from.experts;
  for (int slice = threadIdx.x / kWarp; slice < count; slice += blockDim.x / kWarp) {
    for (int expert = 0; expert < experts; expert += 4) {
      float share[5];
      pool_slice(from, begin, end, slice, expert, share);
      if (threadIdx.x % kWarp != 0) continue;
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (expert + v < experts) slices[slice][expert + v] = share[v];
      slices[slice][experts] = share[4];
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e <= experts; e += blockDim.x) {
    float total = 0;
    for (int slice = 0; slice < count; ++slice) total += slices[slice][e];
    sum[e] = total;
  }
  __syncthreads();
}

// Converts the E sums, and the number of kept tokens that follows them, into weights. In place, by one thread.
__device__ inline void finish_pool(PoolKind kind, float *sum, int experts) {
  const float kept = sum[experts];
  if (kind == PoolKind::kSoftmax && kept > 0) softmax(sum, experts);
  for (int e = 0; e < experts; ++e) {
    if (kept == 0) sum[e] = 0;
    if (kind == PoolKind::kMean && kept > 0) sum[e] /= kept;
  }
}

struct Pool {
  PoolKind kind;
  Groups groups;
  PoolRows rows;
  float *weights;  // G x E, out
};

// One block per group, of any number of warps up to kPoolSlices.
__device__ __forceinline__ void pool_block(const Pool &call, const Block &at) {
  __shared__ float sum[kMostExperts + 1];
  wait_for_previous_launch();
  const int group = at.x, experts = call.rows.experts;
  pool_sums(call.rows, call.groups.begin(group), call.groups.end(group), sum);
  if (threadIdx.x == 0) finish_pool(call.kind, sum, experts);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    call.weights[static_cast<int64_t>(group) * experts + e] = sum[e];
}

template <typename Unused>
__global__ __launch_bounds__(kPoolSlices *kWarp) void pool(const __grid_constant__ Pool call) {
  pool_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kPoolSlices *kWarp) void pool_list(const __grid_constant__ List<Pool> list) {
  run_part(list, [](const Pool &call, const Block &at) { pool_block(call, at); });
}

}  // namespace lily::cuda
