// Layer norm of bfloat16 rows with a float gain: vector loads, mean and variance, bfloat16 result.
#pragma once

#include <cuda_bf16.h>

#include "softmax.cuh"

__global__ void layer_norm(const __nv_bfloat16 *x, const float *gain, __nv_bfloat16 *y, int columns) {
  __shared__ float partial[4];
  const uint4 *chunks = reinterpret_cast<const uint4 *>(x + blockIdx.x * columns);
  float sum = 0, squares = 0;
  for (int i = threadIdx.x; i < columns / 8; i += blockDim.x) {
    const uint4 chunk = chunks[i];
    const __nv_bfloat162 *pairs = reinterpret_cast<const __nv_bfloat162 *>(&chunk);
    for (int k = 0; k < 4; ++k) {
      const float2 pair = __bfloat1622float2(pairs[k]);
      sum += pair.x + pair.y;
      squares += pair.x * pair.x + pair.y * pair.y;
    }
  }
  const auto add = [](float a, float b) { return a + b; };
  sum = combine_block(sum, partial, add);
  squares = combine_block(squares, partial, add);
  const float mean = sum / columns;
  const float scale = 1 / sqrtf(squares / columns - mean * mean + 1e-5f);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    const int at = blockIdx.x * columns + i;
    y[at] = __float2bfloat16((__bfloat162float(x[at]) - mean) * scale * gain[i]);
  }
}

inline bool test_layer_norm() {
  const int rows = 3, columns = 520;
  const std::vector<float> x = Random(3).many(rows * columns), gain = Random(4).many(columns);
  std::vector<__nv_bfloat16> narrow(x.begin(), x.end());
  std::vector<double> want(x.size());
  for (int row = 0; row < rows; ++row) {
    double mean = 0, squares = 0;
    for (int i = 0; i < columns; ++i) mean += x[row * columns + i] / double{columns};
    for (int i = 0; i < columns; ++i) squares += std::pow(x[row * columns + i] - mean, 2);
    const double scale = 1 / std::sqrt(squares / columns + 1e-5);
    for (int i = 0; i < columns; ++i) want[row * columns + i] = (x[row * columns + i] - mean) * scale * gain[i];
  }
  DeviceArray<__nv_bfloat16> device_x(narrow), y(x.size());
  DeviceArray<float> device_gain(gain);
  layer_norm<<<rows, 128>>>(device_x.get(), device_gain.get(), y.get(), columns);
  finish();
  const std::vector<__nv_bfloat16> got = y.host();
  std::vector<float> wide(got.begin(), got.end());
  return compare("layer norm", wide, want, 1 / 512. + 1e-6);  // half an ulp of bfloat16 for values below 1
}
