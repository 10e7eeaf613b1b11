// Softmax over the rows of x [rows, columns], one block per row: maximum, sum of exponentials, division.
#pragma once

#include <algorithm>

#include "check.h"

template <class Combine>
__device__ float combine_block(float value, float *partial, Combine combine) {
  for (int step = 16; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  __syncthreads();  // waits for the previous readers of `partial`
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = partial[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) value = combine(value, partial[warp]);
  return value;
}

__global__ void softmax(const float *x, float *y, int columns) {
  __shared__ float partial[4];
  x += blockIdx.x * columns;
  y += blockIdx.x * columns;
  float largest = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) largest = fmaxf(largest, x[i]);
  largest = combine_block(largest, partial, [](float a, float b) { return fmaxf(a, b); });
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += expf(x[i] - largest);
  sum = combine_block(sum, partial, [](float a, float b) { return a + b; });
  for (int i = threadIdx.x; i < columns; i += blockDim.x) y[i] = expf(x[i] - largest) / sum;
}

inline bool test_softmax() {
  const int rows = 3, columns = 113;
  std::vector<float> x = Random(2).many(rows * columns);
  for (float &value : x) value *= 40;
  std::vector<double> want(x.size());
  for (int row = 0; row < rows; ++row) {
    const float *first = &x[row * columns];
    const double largest = *std::max_element(first, first + columns);
    double sum = 0;
    for (int i = 0; i < columns; ++i) sum += std::exp(first[i] - largest);
    for (int i = 0; i < columns; ++i) want[row * columns + i] = std::exp(first[i] - largest) / sum;
  }
  DeviceArray<float> device_x(x), y(x.size());
  softmax<<<rows, 128>>>(device_x.get(), y.get(), columns);
  finish();
  return compare("softmax", y.host(), want, 4e-7);  // a few roundings of values up to 1
}
