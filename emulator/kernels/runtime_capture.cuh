// Stream capture: forbidden calls, and the launch of the captured graph.
#pragma once

#include "runtime_calls.cuh"

// Makes a call during a capture and checks the errors of the call and of the end of the capture.
template <class Call>
bool fails_during_capture(cudaStream_t stream, const char *name, Call call, cudaError_t want, cudaError_t at_end) {
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  const bool right = expect(call(), want, name);
  if (!expect(cudaStreamEndCapture(stream, &graph), at_end, name)) return false;
  if (graph != nullptr) CHECK(cudaGraphDestroy(graph));
  return right && (graph == nullptr) == (at_end != cudaSuccess);
}

inline bool runtime_capture() {
  cudaStream_t stream, other, blocking;
  cudaEvent_t event;
  void *x = nullptr;
  CHECK(cudaMalloc(&x, 400));
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&blocking, cudaStreamDefault));
  CHECK(cudaEventCreate(&event));
  const cudaError_t kUnsupported = cudaErrorStreamCaptureUnsupported, kInvalidated = cudaErrorStreamCaptureInvalidated;
  bool right = true;
  void *fresh = nullptr;
  right &= fails_during_capture(stream, "malloc", [&] { return cudaMalloc(&fresh, 4); }, kUnsupported, kInvalidated);
  right &= fails_during_capture(stream, "free", [&] { return cudaFree(x); }, kUnsupported, kInvalidated);
  right &= fails_during_capture(
      stream, "stream sync", [&] { return cudaStreamSynchronize(stream); }, kUnsupported, kInvalidated);
  const auto query_captured = [&] {
    CHECK(cudaEventRecord(event, stream));
    return cudaEventQuery(event);
  };
  right &= fails_during_capture(stream, "event query", query_captured, cudaErrorCapturedEvent, kInvalidated);
  const auto wait_outside = [&] {
    CHECK(cudaEventRecord(event, other));
    return cudaStreamWaitEvent(stream, event, 0);
  };
  right &= fails_during_capture(stream, "isolation", wait_outside, cudaErrorStreamCaptureIsolation, kInvalidated);
  const auto fork = [&] {
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaStreamWaitEvent(other, event, 0));
    return cudaMemsetAsync(x, 0, 4, other);
  };
  right &= fails_during_capture(stream, "unjoined", fork, cudaSuccess, cudaErrorStreamCaptureUnjoined);
  const auto legacy = [&] { return cudaMemsetAsync(x, 0, 4, cudaStreamLegacy); };
  right &= fails_during_capture(blocking, "implicit", legacy, cudaErrorStreamCaptureImplicit, kInvalidated);
  const auto legacy_sync = [] { return cudaStreamSynchronize(cudaStreamLegacy); };
  right &= fails_during_capture(blocking, "implicit sync", legacy_sync, cudaErrorStreamCaptureImplicit, kInvalidated);
  right &= fails_during_capture(stream, "nothing", legacy, cudaSuccess, cudaSuccess);
  right &= expect(cudaStreamBeginCapture(cudaStreamLegacy, cudaStreamCaptureModeGlobal), kUnsupported, "legacy");
  for (cudaStream_t each : {stream, other, blocking}) CHECK(cudaStreamDestroy(each));
  CHECK(cudaEventDestroy(event));
  finish();
  CHECK(cudaFree(x));
  return right;
}

// Captured work runs at each launch, on the current contents of memory, and keeps its forks and joins.
inline bool runtime_graph() {
  constexpr int n = 100;
  float *device = nullptr, *pinned = nullptr;
  cudaStream_t stream, other;
  cudaEvent_t fork, join;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&device), n * sizeof(float)));
  CHECK(cudaMallocHost(reinterpret_cast<void **>(&pinned), n * sizeof(float)));
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  for (cudaEvent_t *event : {&fork, &join}) CHECK(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaMemcpyAsync(device, pinned, n * sizeof(float), cudaMemcpyHostToDevice, stream));
  CHECK(cudaEventRecord(fork, stream));
  CHECK(cudaStreamWaitEvent(other, fork, 0));
  runtime_scale<<<1, 64, 0, other>>>(device, 2, n / 2);
  runtime_scale<<<1, 64, 0, stream>>>(device + n / 2, 3, n / 2);
  CHECK(cudaEventRecord(join, other));
  CHECK(cudaStreamWaitEvent(stream, join, 0));
  runtime_scale<<<1, 128, 0, stream>>>(device, 5, n);
  CHECK(cudaMemcpyAsync(pinned, device, n * sizeof(float), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  CHECK(cudaGraphDestroy(graph));
  for (int i = 0; i < n; ++i) pinned[i] = static_cast<float>(i);
  for (int launch = 0; launch < 2; ++launch) CHECK(cudaGraphLaunch(executable, stream));
  CHECK(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT_TRUE(pinned[i] == i * (i < n / 2 ? 100.0f : 225.0f));
  CHECK(cudaGraphExecDestroy(executable));
  for (cudaEvent_t event : {fork, join}) CHECK(cudaEventDestroy(event));
  for (cudaStream_t each : {stream, other}) CHECK(cudaStreamDestroy(each));
  CHECK(cudaFreeHost(pinned));
  CHECK(cudaFree(device));
  return true;
}
