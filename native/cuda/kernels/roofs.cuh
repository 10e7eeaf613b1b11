// Kernels that measure the device's limits (roofs) for the benchmark. No operation uses them.
#pragma once

#include "cuda/tiles/wgmma.cuh"

namespace lily::cuda {

constexpr int kRoofThreads = 256;
// Independent accumulators per thread: more than the latency of any pipeline divided by its warps.
constexpr int kRoofChains = 8;
// float4 loads in flight per thread.
constexpr int kRoofLoads = 4;

// Makes the result observable, so that the compiler does not remove its computation.
__device__ inline void keep(float result, float *sink) {
  if (result == 0.12345f) *sink = result;
}

__global__ void __launch_bounds__(kRoofThreads) roof_multiply_add(int steps, float *sink) {
  float sum[kRoofChains];
#pragma unroll
  for (int i = 0; i < kRoofChains; ++i) sum[i] = static_cast<float>(threadIdx.x + i);
  const float factor = 1.0f - static_cast<float>(blockIdx.x) * 1e-9f;
  for (int step = 0; step < steps; ++step)
#pragma unroll
    for (int i = 0; i < kRoofChains; ++i) sum[i] = fmaf(sum[i], factor, 1e-3f);
  float total = 0;
#pragma unroll
  for (int i = 0; i < kRoofChains; ++i) total += sum[i];
  keep(total, sink);
}

// A pair of bfloat16 numbers of either sign, whose magnitudes are random in [0.5, 1).
__device__ inline uint32_t random_pair(uint32_t index) {
  uint32_t random = index * 2654435761u;
  random ^= random >> 15;
  random *= 2246822519u;
  return (random & 0x807f807fu) | 0x3f003f00u;
}

// wgmma on shared memory. Four instructions of 64 x 256 elements have as many multiply-adds as kStepsEach steps of
// mma.m16n8k16 by the four warps.
__device__ inline void roof_wgmma(int steps, float *sink) {
  constexpr int kColumns = 256, kDepth = 64, kStepsEach = kGroupRows * kColumns * kDepth / (kRoofChains * 4 * 2048);
  using Factor = GroupOperand<Along::kDepth, kDepth, kColumns>;
  __shared__ __align__(kLargeAlignment) uint32_t factors[(kGroupRows + kColumns) * kDepth / 2];
  for (int i = threadIdx.x; i < (kGroupRows + kColumns) * kDepth / 2; i += kRoofThreads) factors[i] = random_pair(i);
  show_to_wgmma();
  __syncthreads();
  const uint64_t a = Factor::descriptor(factors, 0), b = Factor::descriptor(factors, kGroupRows);
  float sum[kColumns / 8][4];
  clear(reinterpret_cast<Accumulators<1, kColumns / 8> &>(sum));
  pin(sum);
  for (int step = 0; step < steps; step += kStepsEach) {
    multiply_group<__nv_bfloat16, Factor, Factor, kDepth / 16, kColumns>(sum, a, b, kColumns, true);
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  pin(sum);
  float total = 0;
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) total += sum[j][0] + sum[j][1] + sum[j][2] + sum[j][3];
  keep(total, sink);
}

// The matrix instruction of 16-bit operands: wgmma on Hopper, elsewhere mma.m16n8k16 on registers.
__global__ void __launch_bounds__(kRoofThreads) roof_bfloat16(int steps, float *sink) {
  if constexpr (kArchitecture < 80) return stop_without_code();
  if constexpr (kArchitecture == kHopperArchitecture) {
    roof_wgmma(steps, sink);
    return;
  }
  float sum[kRoofChains][4] = {};
  const uint32_t one = 0x3f803f80u + (threadIdx.x & 1u);
  const uint32_t a[4] = {one, one, one, one};
  for (int step = 0; step < steps; ++step)
#pragma unroll
    for (int i = 0; i < kRoofChains; ++i) multiply_add<__nv_bfloat16>(sum[i], a, one, one);
  float total = 0;
#pragma unroll
  for (int i = 0; i < kRoofChains; ++i) total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
  keep(total, sink);
}

enum class RoofAccess {
  kRead,
  kUpdate,
  kFill  // with the operands of a product: pairs of random numbers
};

// Accesses the buffer `passes` times. `count` is its number of float4 vectors.
__global__ void __launch_bounds__(kRoofThreads)
    roof_memory(float4 *buffer, int64_t count, int passes, RoofAccess access, float *sink) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kRoofThreads;
  float total = 0;
  for (int pass = 0; pass < passes; ++pass) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kRoofThreads + threadIdx.x; i < count;
         i += kRoofLoads * stride) {
      if (access == RoofAccess::kFill) {
        for (int64_t j = i; j < min(i + kRoofLoads * stride, count); j += stride) {
          const uint32_t first = 4 * static_cast<uint32_t>(j);
          reinterpret_cast<uint4 *>(buffer)[j] =
              make_uint4(random_pair(first), random_pair(first + 1), random_pair(first + 2), random_pair(first + 3));
        }
        continue;
      }
      float4 value[kRoofLoads];
#pragma unroll
      for (int j = 0; j < kRoofLoads; ++j)
        value[j] = i + j * stride < count ? __ldcg(buffer + i + j * stride) : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int j = 0; j < kRoofLoads; ++j) {
        if (access == RoofAccess::kUpdate) {
          value[j].x += 1.0f;
          if (i + j * stride < count) __stcg(buffer + i + j * stride, value[j]);
        } else {
          total += value[j].x + value[j].y + value[j].z + value[j].w;
        }
      }
    }
  }
  keep(total, sink);
}

}  // namespace lily::cuda
