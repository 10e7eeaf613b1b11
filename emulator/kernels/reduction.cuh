// Sum of n floats: grid-stride loop, shuffles within a warp, shared memory between warps, one atomic per block.
#pragma once

#include "check.h"

__global__ void reduce_sum(const float *x, float *sum, int n) {
  __shared__ float partial[8];
  float value = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) value += x[i];
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
  for (int step = 4; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x == 0) atomicAdd(sum, value);
}

inline bool test_reduction() {
  const int n = 5003;
  const std::vector<float> x = Random(1).many(n);
  double want = 0;
  for (float value : x) want += value;
  DeviceArray<float> device_x(x), sum(std::vector<float>{0});
  reduce_sum<<<3, 256>>>(device_x.get(), sum.get(), n);
  finish();
  return compare("reduction", sum.host(), std::vector<double>{want}, 0);  // multiples of 1/256: exact in every order
}
