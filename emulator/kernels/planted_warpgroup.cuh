// Planted mistakes at the matrix products of warpgroups.
#pragma once

#include <algorithm>

#include "planted_memory.cuh"
#include "warpgroup.cuh"

// A [64, 16] and B [16, 8] of ones, K-major without a swizzle.
struct Ones {
  uint4 a[128], b[16];

  __device__ void fill() {
    uint4 *pieces = a;
    for (int i = threadIdx.x; i < 144; i += blockDim.x)
      pieces[i] = uint4{0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
  }
  // Eight rows are 128 bytes, and the groups of eight rows of each half in k are adjacent.
  __device__ uint64_t of_a() const { return uint64_t{8} << 32 | uint64_t{64} << 16 | shared_address(a) / 16; }
  __device__ uint64_t of_b() const { return uint64_t{8} << 32 | uint64_t{8} << 16 | shared_address(b) / 16; }
};

__device__ inline void multiply_ones(float (&d)[4], const Ones &ones) {
  multiply_warpgroup<__nv_bfloat16, false, false>(d, ones.of_a(), ones.of_b());
}

template <bool kBug>
__global__ void early_product(float *x) {
  __shared__ Ones ones;
  ones.fill();
  fence_proxy();
  __syncthreads();
  float d[4] = {};
  fence_warpgroup();
  multiply_ones(d, ones);
  commit_products();
  wait_products<kBug ? 1 : 0>();
  x[threadIdx.x] = d[0];  // finding: early_product
  wait_products<0>();
}

template <bool kBug>
__global__ void product_fence(float *x) {
  __shared__ Ones ones;
  ones.fill();
  fence_proxy();
  __syncthreads();
  float d[4] = {};
  if (!kBug) fence_warpgroup();
  multiply_ones(d, ones);  // finding: product_fence
  commit_products();
  wait_products<0>();
  x[threadIdx.x] = d[0];
}

template <bool kBug>
__global__ void product_proxy(float *x) {
  __shared__ Ones ones;
  ones.fill();
  if (!kBug) fence_proxy();
  __syncthreads();
  float d[4] = {};
  fence_warpgroup();
  multiply_ones(d, ones);  // finding: product_proxy
  commit_products();
  wait_products<0>();
  x[threadIdx.x] = d[0];
}

template <bool kBug>
__global__ void product_overwrite(float *x) {
  __shared__ Ones ones;
  ones.fill();
  fence_proxy();
  __syncthreads();
  float d[4] = {};
  fence_warpgroup();
  multiply_ones(d, ones);
  commit_products();
  if (!kBug) wait_products<0>();
  __syncthreads();
  ones.a[threadIdx.x] = uint4{};  // finding: product_overwrite
  wait_products<0>();
  x[threadIdx.x] = d[0];
}

template <bool kBug>
__global__ void product_divergence(float *x) {
  __shared__ Ones ones;
  ones.fill();
  fence_proxy();
  __syncthreads();
  if (kBug && threadIdx.x >= 96) return;
  float d[4] = {};
  fence_warpgroup();  // finding: product_divergence
  multiply_ones(d, ones);
  commit_products();
  wait_products<0>();
  x[threadIdx.x] = d[0];
}

inline bool run_ones(void (*kernel)(float *)) {
  DeviceArray<float> x(128);
  kernel<<<1, 128>>>(x.get());
  finish();
  const std::vector<float> results = x.host();
  return std::all_of(results.begin(), results.end(), [](float each) { return each == 16; });
}

template <bool kBug>
bool run_early_product() {
  return run_ones(early_product<kBug>);
}
template <bool kBug>
bool run_product_fence() {
  return run_ones(product_fence<kBug>);
}
template <bool kBug>
bool run_product_proxy() {
  return run_ones(product_proxy<kBug>);
}
template <bool kBug>
bool run_product_overwrite() {
  return run_ones(product_overwrite<kBug>);
}
template <bool kBug>
bool run_product_divergence() {
  return run_ones(product_divergence<kBug>);
}
