// Two streams that alternately modify an array, ordered by events, with asynchronous copies.
#pragma once

#include "check.h"

__global__ void scale(float *x, float factor, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= factor;
}

__global__ void add_one(float *x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1;
}

inline bool test_streams() {
  const int n = 300;
  const std::vector<float> x = Random(5).many(n);
  std::vector<float> want(n), got(n);
  for (int i = 0; i < n; ++i) want[i] = ((x[i] * 2 + 1) * 2 + 1) * 2 + 1;
  cudaStream_t first, second;
  cudaEvent_t scaled, added, start, stop;
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  for (cudaEvent_t *event : {&scaled, &added}) CHECK(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  for (cudaEvent_t *event : {&start, &stop}) CHECK(cudaEventCreate(event));
  float *device = nullptr, *pinned = nullptr;
  CHECK(cudaMallocHost(reinterpret_cast<void **>(&pinned), n * sizeof(float)));
  std::memcpy(pinned, x.data(), n * sizeof(float));
  CHECK(cudaMalloc(reinterpret_cast<void **>(&device), n * sizeof(float)));
  CHECK(cudaMemcpyAsync(device, pinned, n * sizeof(float), cudaMemcpyHostToDevice, first));
  CHECK(cudaEventRecord(start, first));
  for (int round = 0; round < 3; ++round) {
    scale<<<3, 128, 0, first>>>(device, 2, n);
    CHECK(cudaEventRecord(scaled, first));
    CHECK(cudaStreamWaitEvent(second, scaled, 0));
    add_one<<<3, 128, 0, second>>>(device, n);
    CHECK(cudaEventRecord(added, second));
    CHECK(cudaStreamWaitEvent(first, added, 0));
  }
  CHECK(cudaEventRecord(stop, first));
  CHECK(cudaMemcpyAsync(pinned, device, n * sizeof(float), cudaMemcpyDeviceToHost, first));
  CHECK(cudaStreamSynchronize(first));
  std::memcpy(got.data(), pinned, n * sizeof(float));
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, start, stop));
  CHECK(cudaFreeHost(pinned));
  CHECK(cudaFree(device));
  for (cudaEvent_t event : {scaled, added, start, stop}) CHECK(cudaEventDestroy(event));
  for (cudaStream_t stream : {first, second}) CHECK(cudaStreamDestroy(stream));
  return compare("streams", got, want, 0) && milliseconds >= 0;
}
