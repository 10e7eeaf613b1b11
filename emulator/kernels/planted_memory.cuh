// Planted accesses to memory that is out of bounds, misaligned, uninitialised or freed. Each kernel has a correct
// variant (kBug = false). The line that the finding must name ends with `finding: CASE`.
#pragma once

#include "check.h"

constexpr int kCount = 64;

template <bool kBug>
__global__ void global_bounds(float *x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kBug ? i <= n : i < n) x[i] = i;  // finding: global_bounds
}

template <bool kBug>
__global__ void shared_bounds(float *x) {
  __shared__ float row[kCount];
  const int at = kBug ? threadIdx.x + 1 : threadIdx.x;
  row[at] = threadIdx.x;  // finding: shared_bounds
  __syncthreads();
  x[threadIdx.x] = row[kCount - 1 - threadIdx.x];
}

template <bool kBug>
__global__ void local_bounds(float *x, int n) {
  float stack[8];
  const int last = kBug ? n : n - 1;
  for (int i = 0; i < n; ++i) stack[(i * 5 + threadIdx.x) % n] = i;
  x[threadIdx.x] = stack[threadIdx.x % 2 ? last : 0];  // finding: local_bounds
}

struct Table {
  float values[8];
};

template <bool kBug>
__global__ void parameter_bounds(const __grid_constant__ Table table, float *x) {
  const int at = kBug ? threadIdx.x : threadIdx.x % 8;
  x[threadIdx.x] = table.values[at];  // finding: parameter_bounds
}

template <bool kBug>
__global__ void misaligned(float *x) {
  float2 *pair = reinterpret_cast<float2 *>(x + (kBug ? 1 : 2));
  if (threadIdx.x == 0) *pair = float2{1, 2};  // finding: misaligned
}

template <bool kBug>
__global__ void uninitialised_shared(float *x, int n) {
  __shared__ float row[kCount];
  if (threadIdx.x < (kBug ? n - 1 : n)) row[threadIdx.x] = threadIdx.x;
  __syncthreads();
  x[threadIdx.x] = row[kCount - 1 - threadIdx.x];  // finding: uninitialised_shared
}

__global__ void increment(float *x) {
  x[threadIdx.x] += 1;  // finding: uninitialised_global use_after_free
}

template <bool kBug>
bool run_global_bounds() {
  DeviceArray<float> x(kCount - 3);
  global_bounds<kBug><<<2, 32>>>(x.get(), kCount - 3);
  finish();
  return x.host()[kCount - 4] == kCount - 4;
}

template <bool kBug>
bool run_shared_bounds() {
  DeviceArray<float> x(kCount);
  shared_bounds<kBug><<<1, kCount>>>(x.get());
  finish();
  return x.host()[0] == kCount - 1;
}

template <bool kBug>
bool run_local_bounds() {
  DeviceArray<float> x(kCount);
  local_bounds<kBug><<<1, kCount>>>(x.get(), 8);
  finish();
  return x.host()[0] == 0;
}

template <bool kBug>
bool run_parameter_bounds() {
  DeviceArray<float> x(kCount);
  parameter_bounds<kBug><<<1, kCount>>>(Table{{0, 1, 2, 3, 4, 5, 6, 7}}, x.get());
  finish();
  return x.host()[kCount - 1] == 7;
}

template <bool kBug>
bool run_misaligned() {
  DeviceArray<float> x(std::vector<float>(4, 0));
  misaligned<kBug><<<1, 32>>>(x.get());
  finish();
  return x.host()[3] == 2;
}

template <bool kBug>
bool run_uninitialised_shared() {
  DeviceArray<float> x(kCount);
  uninitialised_shared<kBug><<<1, kCount>>>(x.get(), kCount);
  finish();
  return x.host()[0] == kCount - 1;
}

template <bool kBug>
bool run_uninitialised_global() {
  DeviceArray<float> x(kCount);
  CHECK(cudaMemsetAsync(x.get(), 0, (kBug ? kCount - 1 : kCount) * sizeof(float), nullptr));
  increment<<<1, kCount>>>(x.get());
  finish();
  return x.host()[0] == 1;
}

template <bool kBug>
bool run_use_after_free() {
  float *x = nullptr;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), kCount * sizeof(float)));
  CHECK(cudaMemsetAsync(x, 0, kCount * sizeof(float), nullptr));
  finish();
  if (kBug) CHECK(cudaFree(x));
  increment<<<1, kCount>>>(x);
  finish();
  if (!kBug) CHECK(cudaFree(x));
  return true;
}
