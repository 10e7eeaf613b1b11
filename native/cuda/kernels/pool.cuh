// Sums per sequence, in an order that depends only on the sequence. Symbols as in docs/math.md.
//
// Forward: w_g, the mean of p over a sequence's kept tokens, or the softmax of their summed logits. Backward: dw_g, the
// sum of dw_te = <h_t, v_te> over all of its tokens, and the number of kept tokens. A separate launch, because
// otherwise every block of the next phase reads the probabilities of whole sequences: blocks * n * E floats instead of
// n * E.
#pragma once

#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

enum class PoolKind { kMean, kSoftmax, kSum };

struct Pool {
  PoolKind kind;
  Groups groups;
  int experts;
  const float *values;  // M x pitch
  int pitch;
  const uint8_t *mask;  // may be null; kSum uses it only for `kept`
  float *sums;          // G x E, out
  float *kept;          // G, out; may be null
};

// Sum of column e over a group's rows; with e == E, the number of kept rows. One warp computes it, and all of its lanes
// return the same sum. kLoadsInFlight loads are in flight, those of dropped rows included.
__device__ inline float pool_column(const Pool &call, int group, int e) {
  constexpr int kLoadsInFlight = 8;
  const int end = call.groups.end(group);
  const bool counts = e == call.experts, drops = call.mask != nullptr && (counts || call.kind != PoolKind::kSum);
  float sum = 0;
#pragma unroll 1
  for (int first = call.groups.begin(group) + static_cast<int>(threadIdx.x % kWarp); first < end;
       first += kLoadsInFlight * kWarp) {
    float value[kLoadsInFlight];
    uint8_t keeps[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) value[i] = 1, keeps[i] = 1;
    if (!counts) {
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i)
        value[i] = call.values[static_cast<int64_t>(min(first + i * kWarp, end - 1)) * call.pitch + e];
    }
    if (drops) {
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) keeps[i] = call.mask[min(first + i * kWarp, end - 1)];
    }
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) sum = first + i * kWarp < end && keeps[i] != 0 ? sum + value[i] : sum;
  }
  return sum_over_warp(sum);
}

// Converts the E sums, and the number of kept tokens that follows them, into the result. In place, by one thread.
__device__ inline void finish_pool(PoolKind kind, float *sum, int experts) {
  const float kept = sum[experts];
  if (kind == PoolKind::kSoftmax && kept > 0) softmax(sum, experts);
  for (int e = 0; e < experts && kind != PoolKind::kSum; ++e) {
    if (kept == 0) sum[e] = 0;
    if (kind == PoolKind::kMean && kept > 0) sum[e] /= kept;
  }
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void pool(const __grid_constant__ Pool call) {
  __shared__ float sum[65];
  const int group = blockIdx.x;
  for (int e = threadIdx.x / kWarp; e <= call.experts; e += kWarps) {
    const float column_sum = pool_column(call, group, e);
    if (threadIdx.x % kWarp == 0) sum[e] = column_sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) finish_pool(call.kind, sum, call.experts);
  __syncthreads();
  for (int e = threadIdx.x; e < call.experts; e += kThreads)
    call.sums[static_cast<int64_t>(group) * call.experts + e] = sum[e];
  if (call.kept != nullptr && threadIdx.x == 0) call.kept[group] = sum[call.experts];
}

// Weights that do not depend on tokens: with uniform routing, or if there are no tokens.
struct ConstantWeights {
  float *weights;
  int64_t count;
  float value;
};

template <typename Unused>
__global__ __launch_bounds__(kThreads) void write_weights(const __grid_constant__ ConstantWeights call) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < call.count) call.weights[i] = call.value;
}

}  // namespace lily::cuda
