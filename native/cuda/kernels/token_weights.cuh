// The weights that each token mixes the experts with, and the pooling groups that share them.
#pragma once

#include "cuda/tiles/stage.cuh"

namespace lily::cuda {

// Pooling groups: sequences, given by cumulative offsets, which ascend (`ascend` below). They are clamped all the same,
// so that no caller of the C interface causes an access out of bounds: the host never reads offsets in device memory.
struct Groups {
  const int32_t *offsets;  // groups + 1, or null: one group of all tokens
  int groups;
  int tokens;

  __device__ int begin(int group) const { return offsets == nullptr ? 0 : min(max(offsets[group], 0), tokens); }
  __device__ int end(int group) const {
    return offsets == nullptr ? tokens : max(begin(group), min(max(offsets[group + 1], 0), tokens));
  }
  // -1: the token belongs to no group, because it precedes the first one or follows the last.
  __device__ int of(int token) const {
    if (offsets == nullptr) return 0;
    int low = -1, high = groups;  // the last offset at or before the token
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (offsets[middle] <= token)
        low = middle;
      else
        high = middle - 1;
    }
    return low < groups ? low : -1;
  }
};

// Makes unchecked offsets ascending: offsets[g] = max(0, max over i <= g of min(unchecked[i], M)).
struct Ascend {
  const int32_t *unchecked;  // count
  int32_t *offsets;          // count, out
  int64_t count;             // groups + 1
  int tokens;                // M
};

// One block, of whose threads each owns a share of the offsets, which it loads twice.
template <typename Unused>
__global__ __launch_bounds__(kThreads) void ascend(const __grid_constant__ Ascend call) {
  __shared__ int largest[kThreads];
  const int64_t share = (call.count + kThreads - 1) / kThreads, first = threadIdx.x * share;
  const int64_t end = first + share < call.count ? first + share : call.count;
  int most = 0;
  wait_for_previous_launch();
  for (int64_t i = first; i < end; ++i) most = max(most, min(call.unchecked[i], call.tokens));
  largest[threadIdx.x] = most;
  __syncthreads();
  most = 0;
  for (int t = 0; t < static_cast<int>(threadIdx.x); ++t) most = max(most, largest[t]);
  for (int64_t i = first; i < end; ++i) {
    most = max(most, min(call.unchecked[i], call.tokens));
    call.offsets[i] = most;
  }
}

// Rows of E weights: one per token or one per group.
struct TokenWeights {
  const float *weights;
  Groups groups;
  int experts;
  int per_token;

  // Null: the token belongs to no group, and its weights are 0.
  __device__ const float *of(int token) const {
    if (per_token) return weights + static_cast<int64_t>(token) * experts;
    const int group = groups.of(token);
    return group < 0 ? nullptr : weights + static_cast<int64_t>(group) * experts;
  }
};

// The tokens that have a gradient: the tokens of groups, with a mask only of groups with a kept token. A group without
// one has the weights 0; the weights of any other group sum to 1.
struct TokensWithGradient {
  const float *weights;  // G x E; null without a mask
  Groups groups;
  int experts;

  // Whether tokens may have no gradient.
  __device__ bool leave_out() const { return weights != nullptr || groups.offsets != nullptr; }
  __device__ bool contains(int token) const {
    const int group = groups.of(token);
    if (group < 0 || weights == nullptr) return group >= 0;
    const float *row = weights + static_cast<int64_t>(group) * experts;
#pragma unroll 1
    for (int e = 0; e < experts; ++e)
      if (row[e] != 0) return true;
    return false;
  }
  // For one pooling group.
  __device__ bool none() const { return weights != nullptr && !contains(0); }
};

// The tiles of tokens that may have a token without a gradient. The caller provides a barrier before `contain`.
struct TilesToClear {
  bool all;
  const int *bounds;  // of the tokens of the groups, in shared memory

  // Two threads load the first and the last offset, once for the block.
  __device__ TilesToClear(const TokensWithGradient &tokens, int (&shared)[2])
      : all(tokens.weights != nullptr), bounds(shared) {
    const Groups &groups = tokens.groups;
    const int i = threadIdx.x;
    if (i < 2) shared[i] = groups.offsets != nullptr ? groups.offsets[i * groups.groups] : i * groups.tokens;
  }
  __device__ bool contain(int token, int token_end) const { return all || token < bounds[0] || token_end > bounds[1]; }
};

// Sets the rows of a tile to zero whose tokens have no gradient: 0 * NaN in the products would be NaN. One row per warp
// and iteration. The caller provides the barriers before and after.
template <typename T, int kRows, int kColumns>
__device__ inline void clear_rows_without_gradient(T *tile, const TokensWithGradient &tokens, int token,
                                                   int token_end) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  for (int t = static_cast<int>(threadIdx.x) / kWarp; t < min(kRows, token_end - token);
       t += static_cast<int>(blockDim.x) / kWarp) {
    if (tokens.contains(token + t)) continue;
    for (int c = static_cast<int>(threadIdx.x) % kWarp * kVector; c < kColumns; c += kWarp * kVector)
      store_vector(tile + place<T, kColumns>(t, c), make_uint4(0, 0, 0, 0));
  }
}

// The warp of this thread. The compiler sees that all lanes have the same, and that a loop over it leaves them
// converged: without that it adds code to each shuffle that collects them.
__device__ inline int warp_of_block() { return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0); }

__device__ inline float sum_over_warp(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// sum = the sum of `count` partial sums of four elements in order, which are `stride` elements apart. The loads of
// kLoadsInFlight of them are in flight; if elements are loaded one by one, of half as many: that needs more registers.
template <bool kWhole>
__device__ inline void add_partials(float (&sum)[4], const float *partials, int64_t stride, int count, int valid) {
  constexpr int kLoadsInFlight = kWhole ? 8 : 4;
#pragma unroll
  for (int v = 0; v < 4; ++v) sum[v] = 0;
#pragma unroll 1
  for (int first = 0; first < count; first += kLoadsInFlight) {
    float4 raw[kLoadsInFlight] = {};
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i)
      if (first + i < count) raw[i] = load_raw<kWhole>(partials + (first + i) * stride, valid);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      if (first + i >= count) break;
      sum[0] += raw[i].x, sum[1] += raw[i].y, sum[2] += raw[i].z, sum[3] += raw[i].w;
    }
  }
}

// sum[row] = the sum of the row's `columns` elements. All warps of the block take part; the order is fixed, and each
// lane has kLoadsInFlight loads in flight. The caller must synchronise before it reads `sum`.
__device__ inline void sum_rows(float *sum, const float *value, int rows, int columns) {
  constexpr int kLoadsInFlight = 8;
#pragma unroll 1
  for (int e = warp_of_block(); e < rows; e += static_cast<int>(blockDim.x) / kWarp) {
    const float *row = value + static_cast<int64_t>(e) * columns;
    float partial = 0;
#pragma unroll 1
    for (int first = threadIdx.x % kWarp; first < columns; first += kLoadsInFlight * kWarp) {
      float loaded[kLoadsInFlight];
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) loaded[i] = row[min(first + i * kWarp, columns - 1)];
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) partial = first + i * kWarp < columns ? partial + loaded[i] : partial;
    }
    partial = sum_over_warp(partial);
    if (threadIdx.x % kWarp == 0) sum[e] = partial;
  }
}

// In place, by one thread.
__device__ inline void softmax(float *logits, int experts) {
  float largest = logits[0];
#pragma unroll 1
  for (int e = 1; e < experts; ++e) largest = fmaxf(largest, logits[e]);
  float sum = 0;
#pragma unroll 1
  for (int e = 0; e < experts; ++e) {
    logits[e] = expf(logits[e] - largest);
    sum += logits[e];
  }
#pragma unroll 1
  for (int e = 0; e < experts; ++e) logits[e] /= sum;
}

}  // namespace lily::cuda
