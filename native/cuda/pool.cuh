// Sums per sequence, in an order that depends on the sequence alone.
//
// Forward: w_g, the mean over a sequence's kept tokens of p, or the softmax of their summed logits. Backward: dw_g, the
// sum over all its tokens of dw_te = <h_t, v_te>, and the number of kept ones. A launch of its own because every block
// of the next phase would else read the probabilities of whole sequences: (blocks) x n E numbers instead of n E.
#pragma once

#include "mixture.cuh"

namespace lily::cuda {

enum class PoolKind { kMean, kSoftmax, kSum };

struct Pool {
  PoolKind kind;
  Groups groups;
  int experts;
  const float *values;  // M x E
  const uint8_t *mask;  // may be null; of no meaning to kSum but for `kept`
  float *sums;          // G x E, out
  float *kept;          // G, out; may be null
};

template <typename Unused>
__global__ __launch_bounds__(kThreads) void pool(const __grid_constant__ Pool call) {
  __shared__ float sum[65];
  const int group = blockIdx.x;
  const int begin = call.groups.begin(group), end = call.groups.end(group);
  const int lane = threadIdx.x % kWarp;
  for (int e = threadIdx.x / kWarp; e <= call.experts; e += kWarps) {
    float part = 0;
    for (int t = begin + lane; t < end; t += kWarp) {
      const bool keeps = call.mask == nullptr || call.mask[t] != 0;
      if (e == call.experts)
        part += keeps ? 1.0f : 0.0f;
      else if (keeps || call.kind == PoolKind::kSum)
        part += call.values[static_cast<int64_t>(t) * call.experts + e];
    }
    part = sum_over_warp(part);
    if (lane == 0) sum[e] = part;
  }
  __syncthreads();
  const float kept = sum[call.experts];
  if (call.kind == PoolKind::kSoftmax && threadIdx.x == 0 && kept > 0) softmax(sum, call.experts);
  __syncthreads();
  for (int e = threadIdx.x; e < call.experts; e += kThreads) {
    float value = sum[e];
    if (call.kind != PoolKind::kSum && kept == 0) value = 0;
    if (call.kind == PoolKind::kMean && kept > 0) value /= kept;
    call.sums[static_cast<int64_t>(group) * call.experts + e] = value;
  }
  if (call.kept != nullptr && threadIdx.x == 0) call.kept[group] = kept;
}

// Weights that no token has a say in: of uniform routing, or where there are no tokens.
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
