// Which weights mix the experts of a token, and which tokens share them.
#pragma once

#include "stage.cuh"

namespace lily::cuda {

// Pooling groups: sequences by cumulative offsets. Offsets that live on the device were never read by the host, so
// they are clamped: a wrong one gives wrong numbers, not a wild access.
struct Groups {
  const int32_t *offsets;  // groups + 1, or null: one group of all tokens
  int groups;
  int tokens;

  __device__ int begin(int group) const { return offsets == nullptr ? 0 : min(max(offsets[group], 0), tokens); }
  __device__ int end(int group) const {
    return offsets == nullptr ? tokens : max(begin(group), min(max(offsets[group + 1], 0), tokens));
  }
  // The last group that begins at or before the token.
  __device__ int of(int token) const {
    if (offsets == nullptr) return 0;
    int low = 0, high = groups - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (offsets[middle] <= token)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
};

// Rows of E weights, one per group or one per token.
struct TokenWeights {
  const float *weights;
  Groups groups;
  int experts;
  int per_token;

  __device__ const float *of(int token) const {
    return weights + static_cast<int64_t>(per_token ? token : groups.of(token)) * experts;
  }
};

__device__ inline float sum_over_warp(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// sum[row] = sum over `columns` of the row, by all warps of a block in a fixed order. The caller synchronises before it
// reads.
__device__ inline void sum_rows(float *sum, const float *value, int rows, int columns) {
  for (int e = threadIdx.x / kWarp; e < rows; e += kWarps) {
    float partial = 0;
    for (int i = threadIdx.x % kWarp; i < columns; i += kWarp) partial += value[static_cast<int64_t>(e) * columns + i];
    partial = sum_over_warp(partial);
    if (threadIdx.x % kWarp == 0) sum[e] = partial;
  }
}

// In place, by one thread.
__device__ inline void softmax(float *logits, int experts) {
  float largest = logits[0];
  for (int e = 1; e < experts; ++e) largest = fmaxf(largest, logits[e]);
  float sum = 0;
  for (int e = 0; e < experts; ++e) {
    logits[e] = expf(logits[e] - largest);
    sum += logits[e];
  }
  for (int e = 0; e < experts; ++e) logits[e] /= sum;
}

}  // namespace lily::cuda
