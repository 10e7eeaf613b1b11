// Results of the runtime functions for devices, attributes, errors and memory.
#pragma once

#include "check.h"

// Prints a message if the result is not the expected one. Resets the thread's last error.
inline bool expect(cudaError_t got, cudaError_t want, const char *call) {
  cudaGetLastError();
  if (got == want) return true;
  std::printf("%s: %s instead of %s\n", call, cudaGetErrorName(got), cudaGetErrorName(want));
  return false;
}
#define EXPECT(call, want) \
  if (!expect(call, want, #call)) return false
#define EXPECT_TRUE(condition) \
  if (!(condition)) return std::printf("false: %s\n", #condition), false

__global__ void runtime_scale(float *x, float factor, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= factor;
}

__global__ void runtime_copy(float *to, const float *from, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[i];
}

__global__ void runtime_reverse(float *x) {
  extern __shared__ float shared[];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void runtime_static_shared(float *x) {
  extern __shared__ float shared[];
  __shared__ float sums[32];
  shared[threadIdx.x] = sums[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = shared[threadIdx.x] + sums[threadIdx.x];
}

// Prints the device count, versions and properties, which the test compares with the environment.
inline bool runtime_devices() {
  int count = -1, driver = -1, runtime = -1;
  const cudaError_t error = cudaGetDeviceCount(&count);
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  std::printf("%s: %d devices, driver %d, runtime %d\n", cudaGetErrorName(error), count, driver, runtime);
  if (error != cudaSuccess) return false;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp p;
    int major = 0, minor = 0, shared = 0;
    CHECK(cudaGetDeviceProperties(&p, device));
    CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    EXPECT_TRUE(major == p.major && minor == p.minor && shared == static_cast<int>(p.sharedMemPerBlockOptin));
    std::printf("device %d: sm_%d%d, %zu bytes, %d multiprocessors, %d bytes shared\n", device, p.major, p.minor,
                p.totalGlobalMem, p.multiProcessorCount, shared);
  }
  int current = -1;
  EXPECT(cudaSetDevice(count), cudaErrorInvalidDevice);
  CHECK(cudaSetDevice(count - 1));
  CHECK(cudaGetDevice(&current));
  EXPECT_TRUE(current == count - 1);
  return true;
}

// Launch limits and kernel attributes of the default architecture.
inline bool runtime_attributes() {
  float *x = nullptr;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), 32 * sizeof(float)));
  CHECK(cudaMemsetAsync(x, 0, 32 * sizeof(float), nullptr));
  // Without the attribute, this is the limit of dynamic and static shared memory together.
  constexpr int kWithout = 48 << 10;
  const auto launch = [&](dim3 grid, dim3 block, int bytes) {
    runtime_reverse<<<grid, block, bytes>>>(x);
    return cudaGetLastError();
  };
  EXPECT(launch(1, 32, 60000), cudaErrorInvalidValue);
  EXPECT(launch(1, 32, kWithout), cudaSuccess);
  const auto kBytes = cudaFuncAttributeMaxDynamicSharedMemorySize;
  EXPECT(cudaFuncSetAttribute(runtime_reverse, kBytes, 1 << 20), cudaErrorInvalidValue);
  EXPECT(cudaFuncSetAttribute(runtime_reverse, kBytes, 60000), cudaSuccess);
  EXPECT(launch(1, 32, 60000), cudaSuccess);
  const auto launch_static = [&](int bytes) {
    runtime_static_shared<<<1, 32, bytes>>>(x);
    return cudaGetLastError();
  };
  EXPECT(launch_static(kWithout), cudaErrorInvalidValue);
  EXPECT(launch_static(kWithout - 32 * static_cast<int>(sizeof(float))), cudaSuccess);
  EXPECT(cudaFuncSetAttribute(runtime_static_shared, kBytes, kWithout), cudaSuccess);
  EXPECT(launch_static(kWithout), cudaSuccess);
  EXPECT(launch(1, 2000, 0), cudaErrorInvalidConfiguration);
  EXPECT(launch(dim3(1, 70000), 32, 0), cudaErrorInvalidConfiguration);
  EXPECT(launch(dim3(0), 32, 0), cudaErrorInvalidConfiguration);
  cudaFuncAttributes attributes;
  CHECK(cudaFuncGetAttributes(&attributes, runtime_reverse));
  EXPECT_TRUE(attributes.maxDynamicSharedSizeBytes == 60000 && attributes.maxThreadsPerBlock == 1024);
  finish();
  EXPECT(cudaFree(x), cudaSuccess);
  return true;
}

inline bool runtime_errors() {
  EXPECT_TRUE(std::strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0);
  EXPECT_TRUE(std::strcmp(cudaGetErrorName(static_cast<cudaError_t>(12345)), "unrecognized error code") == 0);
  float host[4] = {};
  EXPECT_TRUE(cudaFree(host) == cudaErrorInvalidValue);
  EXPECT_TRUE(cudaGetLastError() == cudaErrorInvalidValue);
  EXPECT_TRUE(cudaGetLastError() == cudaSuccess);
  EXPECT(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host)), cudaErrorInvalidResourceHandle);
  EXPECT(cudaMemcpyAsync(host, host + 1, 4, cudaMemcpyHostToDevice, nullptr), cudaErrorInvalidValue);
  cudaEvent_t event;
  float elapsed;
  CHECK(cudaEventCreate(&event));
  EXPECT(cudaEventElapsedTime(&elapsed, event, event), cudaErrorInvalidResourceHandle);
  CHECK(cudaEventDestroy(event));
  EXPECT(cudaEventRecord(event, nullptr), cudaErrorInvalidResourceHandle);
  return true;
}

inline bool runtime_memory() {
  char *device = nullptr, *pinned = nullptr;
  cudaPointerAttributes attributes;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&device), 1000));
  CHECK(cudaMallocHost(reinterpret_cast<void **>(&pinned), 1000));
  CHECK(cudaPointerGetAttributes(&attributes, device + 999));
  EXPECT_TRUE(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
  CHECK(cudaPointerGetAttributes(&attributes, pinned));
  EXPECT_TRUE(attributes.type == cudaMemoryTypeHost);
  CHECK(cudaPointerGetAttributes(&attributes, &attributes));
  EXPECT_TRUE(attributes.type == cudaMemoryTypeUnregistered);

  // Copies 5 of 10 bytes per row into rows with a pitch of 7 bytes, and back.
  char rows[50], back[50] = {};
  for (int i = 0; i < 50; ++i) rows[i] = static_cast<char>(i);
  const auto copy_rows = [](void *to, size_t to_pitch, const void *from, size_t from_pitch) {
    return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, 5, 5, cudaMemcpyDefault, nullptr);
  };
  CHECK(cudaMemsetAsync(device, 1, 1000, nullptr));
  CHECK(copy_rows(device, 7, rows, 10));
  CHECK(copy_rows(back, 10, device, 7));  // waits, because `back` is not pinned
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(back[i] == (i % 10 < 5 ? i : 0));
  EXPECT(copy_rows(device, 4, rows, 10), cudaErrorInvalidPitchValue);
  CHECK(cudaFree(device));
  CHECK(cudaFreeHost(pinned));
  return true;
}
