// Primary contexts: which calls create one, what is current to the thread, and what a reset destroys.
#pragma once

#include "driver_function.cuh"
#include "runtime_calls.cuh"

// Uses the last of two devices. The test counts the contexts that the emulator prints: two of it, none of the other.
inline bool runtime_contexts() {
  const auto retain = driver_function<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
  const auto get_state = driver_function<decltype(&cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
  const auto get_id = driver_function<decltype(&cuCtxGetId)>("cuCtxGetId");
  const auto push = driver_function<decltype(&cuCtxPushCurrent)>("cuCtxPushCurrent");
  const auto pop = driver_function<decltype(&cuCtxPopCurrent)>("cuCtxPopCurrent");
  int count = 0, current = -1, value = 0, active = -1;
  unsigned flags = 0;
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceCount(&count));
  CHECK(cudaGetDeviceProperties(&properties, 0));
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
  EXPECT_TRUE(count == 2);

  // A context that is pushed determines the device; without it the thread is as before.
  CUcontext context = nullptr, popped = nullptr;
  unsigned long long first = 0, second = 0;
  EXPECT_TRUE(get_id(nullptr, &first) == CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_TRUE(get_state(1, &flags, &active) == CUDA_SUCCESS && active == 0);
  EXPECT_TRUE(retain(&context, 1) == CUDA_SUCCESS && push(context) == CUDA_SUCCESS);
  CHECK(cudaGetDevice(&current));
  EXPECT_TRUE(current == 1);
  EXPECT_TRUE(get_id(nullptr, &first) == CUDA_SUCCESS && get_id(context, &second) == CUDA_SUCCESS && first == second);
  float *memory = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&memory), 128));
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamDefault));
  CHECK(cudaEventCreate(&event));
  const auto bytes = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK(cudaFuncSetAttribute(runtime_reverse, bytes, 60000));
  CHECK(cudaMemsetAsync(memory, 0, 128, stream));
  runtime_reverse<<<1, 32, 60000, stream>>>(memory);
  finish();
  EXPECT_TRUE(pop(&popped) == CUDA_SUCCESS && popped == context);
  EXPECT_TRUE(pop(&popped) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(cudaGetDevice(&current));
  EXPECT_TRUE(current == 0);

  // A reset destroys what was created in the context, and the next call that needs one creates another.
  CHECK(cudaSetDevice(1));
  CHECK(cudaDeviceReset());
  EXPECT_TRUE(get_state(1, &flags, &active) == CUDA_SUCCESS && active == 0);
  EXPECT_TRUE(push(context) == CUDA_ERROR_INVALID_CONTEXT);
  EXPECT(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT(cudaEventQuery(event), cudaErrorInvalidResourceHandle);
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, memory));
  EXPECT_TRUE(attributes.type == cudaMemoryTypeUnregistered);
  cudaFuncAttributes of_kernel;
  CHECK(cudaFuncGetAttributes(&of_kernel, runtime_reverse));
  EXPECT_TRUE(of_kernel.maxDynamicSharedSizeBytes == 48 << 10);
  EXPECT_TRUE(get_state(1, &flags, &active) == CUDA_SUCCESS && active == 1);
  EXPECT_TRUE(get_id(context, &second) == CUDA_SUCCESS && second != first);
  return true;
}
