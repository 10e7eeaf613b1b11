// AdamW kernels: partial sums of squares of all gradients, the norm from these partial sums, which decides whether the
// call is skipped, and the update, which makes one pass over value, grad, exp_avg and exp_avg_sq. The formulas are
// documented at lily_adamw in the C ABI. One launch processes many parameters; each block processes one split
// (kAdamWSplit elements) of one parameter.
#pragma once

#include "core/adamw.h"
#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

struct AdamWTensor {
  void *value;
  void *grad;
  float *exp_avg, *exp_avg_sq;
  int64_t count;
  AdamWRate rate;
  int16_t value_dtype, grad_dtype;
  int first_block;
};

constexpr int kAdamWTensors = 72;            // fits into the 4 KiB limit on kernel parameters
constexpr int kAdamWTile = kThreads * 4;     // elements per block and iteration
constexpr int kAdamWSplit = kAdamWTile * 4;  // elements per block: several tiles amortise the search for the tensor

// What the norm decides about the update.
struct AdamWDecision {
  int32_t skips;
  // Factors on step_size and on root_factor, in which the host has counted the skipped calls: 1 if there are none.
  float step_size, root_factor;
};

struct AdamW {
  AdamWTensor tensors[kAdamWTensors];
  int count;
  AdamWStep step;
  float max_norm;
  const float *norm;              // one float; null: no clipping
  float *partials;                // one float per block: its sum of squares
  const AdamWDecision *decision;  // null: the call is not skipped
};
static_assert(sizeof(AdamW) <= 4096);

// The split that starts at element `begin` of one of the tensor's arrays, as a matrix of one row.
__device__ inline Output adamw_split(void *data, int32_t dtype, int64_t begin) {
  void *const start = static_cast<char *>(data) + begin * dtype_bytes(dtype);
  return {start, 0, dtype, reinterpret_cast<uintptr_t>(start) % (4 * dtype_bytes(dtype)) == 0, 0};
}

struct AdamWBlock {
  int tensor;
  int64_t begin;
  int length;
};

__device__ inline AdamWBlock adamw_block(const AdamW &call) {
  // Binary search for the last tensor whose first block is not after this block.
  int tensor = 0;
  for (int last = call.count - 1; tensor < last;) {
    const int middle = (tensor + last + 1) / 2;
    if (call.tensors[middle].first_block <= static_cast<int>(blockIdx.x))
      tensor = middle;
    else
      last = middle - 1;
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x - call.tensors[tensor].first_block) * kAdamWSplit;
  const int64_t rest = call.tensors[tensor].count - begin;
  return {tensor, begin, rest < kAdamWSplit ? static_cast<int>(rest) : kAdamWSplit};
}

// partials[block] = sum of the squares of the block's gradients.
template <typename Unused>
__global__ __launch_bounds__(kThreads) void adamw_squares(const __grid_constant__ AdamW call) {
  __shared__ float sums[kWarps];
  wait_for_previous_launch();
  const AdamWBlock at = adamw_block(call);
  const AdamWTensor &tensor = call.tensors[at.tensor];
  const Operand grad = adamw_split(tensor.grad, tensor.grad_dtype, at.begin).operand();
  float sum = 0;
  for (int i = threadIdx.x * 4; i < at.length; i += kAdamWTile) {
    float g[4];
    load_vec4(grad, 0, i, at.length, g);
#pragma unroll
    for (int e = 0; e < 4; ++e) sum = fmaf(g[e], g[e], sum);
  }
  sum = sum_over_warp(sum);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) call.partials[blockIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
}

struct AdamWNorm {
  const float *partials;
  int64_t count;
  float *norm;              // one float, out; may be null
  float *skipped;           // one float, in and out: the number of skipped calls; null: none is skipped
  AdamWDecision *decision;  // out, with `skipped`
  double beta1, beta2;
  int64_t step;  // the number of this call; skipped ones count
};

// 1 - beta^step without cancellation. With c(n) = 1 - beta^n: c(m + n) = c(m) + c(n) (1 - c(m)).
__device__ inline double adamw_correction(double beta, int64_t step) {
  double correction = 0, power = 1 - beta;  // c of the bits of `step` so far, and of the next bit
  for (; step > 0; step >>= 1) {
    if (step & 1) correction += power * (1 - correction);
    power *= 2 - power;
  }
  return correction;
}

// One block adds the partial sums. It accumulates in float64, so that the error does not grow with their number.
template <typename Unused>
__global__ __launch_bounds__(kThreads) void adamw_norm(const __grid_constant__ AdamWNorm call) {
  __shared__ double sums[kThreads];
  wait_for_previous_launch();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < call.count; i += kThreads) sum += call.partials[i];
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(sums[0]));
  if (call.norm != nullptr) *call.norm = norm;
  if (call.skipped == nullptr) return;
  const float skipped = *call.skipped;
  const bool skips = !isfinite(norm);
  if (skips) *call.skipped = skipped + 1;
  const int64_t step = call.step - static_cast<int64_t>(skipped);
  const auto ratio = [&](double beta) { return adamw_correction(beta, call.step) / adamw_correction(beta, step); };
  *call.decision = {skips, static_cast<float>(ratio(call.beta1)), static_cast<float>(sqrt(ratio(call.beta2)))};
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void adamw_update(const __grid_constant__ AdamW call) {
  wait_for_previous_launch();
  const AdamWBlock at = adamw_block(call);
  const AdamWTensor &tensor = call.tensors[at.tensor];
  AdamWStep step = call.step;
  AdamWRate rate = tensor.rate;
  if (call.decision != nullptr) {
    if (call.decision->skips) return;
    rate.step_size *= call.decision->step_size;
    step.root_factor *= call.decision->root_factor;
  }
  float clip = 1;
  if (call.norm != nullptr) {
    clip = call.max_norm / (call.norm[0] + 1e-6f);
    if (clip > 1) clip = 1;  // keeps a NaN
  }
  const Operand grad = adamw_split(tensor.grad, tensor.grad_dtype, at.begin).operand();
  const Output value = adamw_split(tensor.value, tensor.value_dtype, at.begin);
  const Output exp_avg = adamw_split(tensor.exp_avg, LILY_FLOAT32, at.begin);
  const Output exp_avg_sq = adamw_split(tensor.exp_avg_sq, LILY_FLOAT32, at.begin);
  for (int i = threadIdx.x * 4; i < at.length; i += kAdamWTile) {
    float g[4], m[4], v[4], p[4];
    load_vec4(grad, 0, i, at.length, g);
    load_vec4(exp_avg.operand(), 0, i, at.length, m);
    load_vec4(exp_avg_sq.operand(), 0, i, at.length, v);
    load_vec4(value.operand(), 0, i, at.length, p);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float gradient = g[e] * clip;
      m[e] = step.beta1 * m[e] + step.beta1_rest * gradient;
      v[e] = step.beta2 * v[e] + step.beta2_rest * gradient * gradient;
      p[e] = rate.keep * p[e] - rate.step_size * m[e] / (sqrtf(v[e]) * step.root_factor + step.eps);
    }
    store_vec4(exp_avg, 0, i, at.length, m);
    store_vec4(exp_avg_sq, 0, i, at.length, v);
    store_vec4(value, 0, i, at.length, p);
  }
}

}  // namespace lily::cuda
