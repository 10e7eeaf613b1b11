// Sums of n floats, one per block: grid-stride loop, shuffles within a warp, shared memory between warps.
#pragma once

#include "check.h"

__global__ void reduce_sum(const float *x, float *sums, int n) {
  __shared__ float partial[8];
  float value = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) value += x[i];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
  for (int step = 4; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x == 0) sums[blockIdx.x] = value;
}

inline bool test_reduction() {
  const int n = 5003;
  const std::vector<float> x = Random(1).many(n);
  double want = 0;
  for (float value : x) want += value;
  DeviceArray<float> device_x(x), sums(3);
  reduce_sum<<<3, 256>>>(device_x.get(), sums.get(), n);
  finish();
  const std::vector<float> got = sums.host();
  // Multiples of 1/256: exact in every order.
  return compare("reduction", std::vector<float>{got[0] + got[1] + got[2]}, std::vector<double>{want}, 0);
}
