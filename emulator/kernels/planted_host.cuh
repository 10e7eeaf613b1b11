// Planted mistakes in host code: missing order between streams, memory freed while a kernel uses it, and leaks.
#pragma once

#include "driver_function.cuh"
#include "planted_memory.cuh"
#include "streams.cuh"

// A kernel in one stream reads what a kernel in another stream wrote. Without the event, some orders of the work give a
// wrong result, and every order is a finding.
template <bool kBug>
bool run_missing_event() {
  std::vector<float> x(kCount, 3);
  DeviceArray<float> device_x(x);
  cudaStream_t first, second;
  cudaEvent_t added;
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  CHECK(cudaEventCreateWithFlags(&added, cudaEventDisableTiming));
  add_one<<<1, kCount, 0, first>>>(device_x.get(), kCount);
  CHECK(cudaEventRecord(added, first));
  if (!kBug) CHECK(cudaStreamWaitEvent(second, added, 0));
  scale<<<1, kCount, 0, second>>>(device_x.get(), 2, kCount);
  finish({first, second});
  CHECK(cudaEventDestroy(added));
  for (cudaStream_t stream : {first, second}) CHECK(cudaStreamDestroy(stream));
  return device_x.host()[0] == 8;
}

// A copy to the host does not wait for the kernel in another stream.
template <bool kBug>
bool run_unordered_copy() {
  float *pinned = nullptr;
  DeviceArray<float> x(std::vector<float>(kCount, 3));
  cudaStream_t first, second;
  CHECK(cudaMallocHost(reinterpret_cast<void **>(&pinned), kCount * sizeof(float)));
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  add_one<<<1, kCount, 0, first>>>(x.get(), kCount);
  if (!kBug) CHECK(cudaStreamSynchronize(first));
  CHECK(cudaMemcpyAsync(pinned, x.get(), kCount * sizeof(float), cudaMemcpyDeviceToHost, second));
  finish({first, second});
  const bool right = pinned[0] == 4;
  for (cudaStream_t stream : {first, second}) CHECK(cudaStreamDestroy(stream));
  CHECK(cudaFreeHost(pinned));
  return right;
}

// Two branches of a graph: one clears memory that the other adds to.
template <bool kBug>
bool run_unordered_graph() {
  DeviceArray<float> x(std::vector<float>(kCount, 3));
  cudaStream_t stream, branch;
  cudaEvent_t fork, join;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&branch, cudaStreamNonBlocking));
  for (cudaEvent_t *event : {&fork, &join}) CHECK(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaEventRecord(fork, stream));
  CHECK(cudaStreamWaitEvent(branch, fork, 0));
  CHECK(cudaMemsetAsync(x.get(), 0, kCount * sizeof(float) / 2, branch));
  CHECK(cudaEventRecord(join, branch));
  const int first = kBug ? 0 : kCount / 2;
  add_one<<<1, kCount, 0, stream>>>(x.get() + first, kCount / 2);
  CHECK(cudaStreamWaitEvent(stream, join, 0));
  add_one<<<1, kCount, 0, stream>>>(x.get(), kCount);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int launch = 0; launch < 2; ++launch) CHECK(cudaGraphLaunch(executable, stream));
  finish({stream});
  const std::vector<float> got = x.host();
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  for (cudaEvent_t event : {fork, join}) CHECK(cudaEventDestroy(event));
  for (cudaStream_t each : {stream, branch}) CHECK(cudaStreamDestroy(each));
  return got[0] == 1 && got[kCount - 1] == 7;
}

// Memory is freed while a kernel that is queued uses it.
template <bool kBug>
bool run_early_free() {
  cudaStream_t stream;
  float *x = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), kCount * sizeof(float)));
  CHECK(cudaMemsetAsync(x, 0, kCount * sizeof(float), stream));
  CHECK(cudaStreamSynchronize(stream));
  add_one<<<1, kCount, 0, stream>>>(x, kCount);
  if (!kBug) CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaFree(x));
  finish({stream});
  CHECK(cudaStreamDestroy(stream));
  return true;
}

// Resources that a program must release.
template <bool kBug>
bool run_leak() {
  float *x = nullptr;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), kCount * sizeof(float)));
  CHECK(cudaMemsetAsync(x, 0, kCount * sizeof(float), nullptr));
  finish();
  if (!kBug) CHECK(cudaFree(x));
  return true;
}

template <bool kBug>
bool run_leak_pinned() {
  float *x = nullptr;
  CHECK(cudaMallocHost(reinterpret_cast<void **>(&x), kCount * sizeof(float)));
  if (!kBug) CHECK(cudaFreeHost(x));
  return true;
}

template <bool kBug>
bool run_leak_stream() {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamDefault));
  if (!kBug) CHECK(cudaStreamDestroy(stream));
  return true;
}

template <bool kBug>
bool run_leak_event() {
  cudaEvent_t event;
  CHECK(cudaEventCreate(&event));
  if (!kBug) CHECK(cudaEventDestroy(event));
  return true;
}

template <bool kBug>
bool run_leak_graph() {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamDefault));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  if (!kBug) CHECK(cudaGraphExecDestroy(executable));
  return true;
}

// Asks for the id of a context that was destroyed. Whether a device has a primary context can always be asked.
template <bool kBug>
bool run_destroyed_context() {
  const auto retain = driver_function<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
  const auto get_state = driver_function<decltype(&cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
  const auto get_id = driver_function<decltype(&cuCtxGetId)>("cuCtxGetId");
  CUcontext context = nullptr;
  unsigned flags = 0;
  int active = -1;
  unsigned long long id = 0;
  if (retain(&context, 0) != CUDA_SUCCESS) return false;
  CHECK(cudaDeviceReset());
  if (get_state(0, &flags, &active) != CUDA_SUCCESS) return false;
  if (kBug) get_id(context, &id);
  return active == 0;
}
