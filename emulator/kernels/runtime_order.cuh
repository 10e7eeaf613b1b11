// Implicit order: the legacy stream, host functions, polling, host threads.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "runtime_calls.cuh"

// The legacy stream and blocking streams wait for each other.
inline bool runtime_legacy() {
  constexpr int n = 64;
  float *x = nullptr, host[n];
  cudaStream_t first, second;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), n * sizeof(float)));
  for (cudaStream_t *stream : {&first, &second}) CHECK(cudaStreamCreateWithFlags(stream, cudaStreamDefault));
  for (float &each : host) each = 1;
  copy(x, host, sizeof host);
  runtime_scale<<<1, n, 0, first>>>(x, 2, n);
  runtime_scale<<<1, n>>>(x, 3, n);
  runtime_scale<<<1, n, 0, second>>>(x, 5, n);
  copy(host, x, sizeof host);
  for (float each : host) EXPECT_TRUE(each == 30);
  for (cudaStream_t stream : {first, second}) CHECK(cudaStreamDestroy(stream));
  CHECK(cudaFree(x));
  return true;
}

inline std::atomic<int> &host_calls() {
  static std::atomic<int> calls{0};
  return calls;
}

// Host functions run in stream order, on another thread, and even if nothing waits for them.
inline bool runtime_host_functions() {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamDefault));
  const auto count = [](void *) { ++host_calls(); };
  for (int i = 0; i < 3; ++i) CHECK(cudaLaunchHostFunc(stream, count, nullptr));
  CHECK(cudaStreamSynchronize(stream));
  EXPECT_TRUE(host_calls() == 3);
  CHECK(cudaLaunchHostFunc(stream, count, nullptr));
  const auto start = std::chrono::steady_clock::now();
  while (host_calls() < 4 && std::chrono::steady_clock::now() - start < std::chrono::seconds(20)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(host_calls() == 4);
  CHECK(cudaStreamDestroy(stream));
  return true;
}

// Polling makes progress, and elapsed times are plausible.
inline bool runtime_polling() {
  constexpr int n = 64;
  float *x = nullptr, milliseconds = -1;
  cudaEvent_t start, stop;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), n * sizeof(float)));
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  CHECK(cudaMemsetAsync(x, 0, n * sizeof(float), nullptr));
  CHECK(cudaEventRecord(start, nullptr));
  for (int i = 0; i < 10; ++i) runtime_scale<<<1, n>>>(x, 2, n);
  CHECK(cudaEventRecord(stop, nullptr));
  cudaError_t error = cudaErrorNotReady;
  while (error == cudaErrorNotReady) error = cudaEventQuery(stop);
  EXPECT(error, cudaSuccess);
  CHECK(cudaEventElapsedTime(&milliseconds, start, stop));
  EXPECT_TRUE(milliseconds > 0 && milliseconds < 60000);
  for (cudaEvent_t event : {start, stop}) CHECK(cudaEventDestroy(event));
  CHECK(cudaFree(x));
  return true;
}

// Every way to order work across streams, and work that needs no order: none of it may be a finding.
inline bool runtime_ordered() {
  constexpr int n = 64;
  float *x = nullptr, *copies = nullptr, host[2 * n];
  cudaStream_t first, second, blocking;
  cudaEvent_t event;
  CHECK(cudaMalloc(reinterpret_cast<void **>(&x), n * sizeof(float)));
  CHECK(cudaMalloc(reinterpret_cast<void **>(&copies), sizeof host));
  for (cudaStream_t *stream : {&first, &second}) CHECK(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&blocking, cudaStreamDefault));
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  for (float &each : host) each = 1;
  copy(x, host, n * sizeof(float));
  const auto scale = [&](cudaStream_t stream) { runtime_scale<<<1, n, 0, stream>>>(x, 2, n); };

  scale(first);
  CHECK(cudaStreamSynchronize(first));
  scale(second);
  CHECK(cudaEventRecord(event, second));
  CHECK(cudaEventSynchronize(event));
  scale(first);
  CHECK(cudaEventRecord(event, first));
  CHECK(cudaStreamWaitEvent(second, event, 0));
  scale(second);
  CHECK(cudaEventRecord(event, second));
  while (cudaEventQuery(event) == cudaErrorNotReady) {
  }
  cudaGetLastError();  // that is an error, too
  // The legacy stream and blocking streams wait for each other, even after a blocking stream is destroyed.
  scale(blocking);
  scale(nullptr);
  scale(blocking);
  CHECK(cudaStreamDestroy(blocking));
  scale(nullptr);
  CHECK(cudaEventRecord(event, nullptr));
  CHECK(cudaStreamWaitEvent(first, event, 0));
  // The host continues after a signal from a host function.
  scale(first);
  std::atomic<bool> done{false};
  CHECK(cudaLaunchHostFunc(first, [](void *flag) { *static_cast<std::atomic<bool> *>(flag) = true; }, &done));
  while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  // Two kernels on disjoint halves, then two kernels that read the same array.
  runtime_scale<<<1, n / 2, 0, first>>>(x, 2, n / 2);
  runtime_scale<<<1, n / 2, 0, second>>>(x + n / 2, 2, n / 2);
  CHECK(cudaEventRecord(event, first));
  CHECK(cudaStreamWaitEvent(second, event, 0));
  CHECK(cudaEventRecord(event, second));
  CHECK(cudaStreamWaitEvent(first, event, 0));
  runtime_copy<<<1, n, 0, first>>>(copies, x, n);
  runtime_copy<<<1, n, 0, second>>>(copies + n, x, n);
  finish({first, second});
  copy(host, copies, sizeof host);
  for (float each : host) EXPECT_TRUE(each == 1024);
  for (cudaStream_t stream : {first, second}) CHECK(cudaStreamDestroy(stream));
  CHECK(cudaEventDestroy(event));
  for (float *each : {x, copies}) CHECK(cudaFree(each));
  return true;
}

// Several host threads, each with its own stream.
inline bool runtime_threads() {
  constexpr int n = 64, kThreads = 4, kRounds = 5;
  std::atomic<int> right{0};
  const auto work = [&] {
    float *x = nullptr, host[n];
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc(reinterpret_cast<void **>(&x), sizeof host));
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < n; ++i) host[i] = static_cast<float>(i);
      CHECK(cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, stream));
      for (int i = 0; i < 3; ++i) runtime_scale<<<1, n, 0, stream>>>(x, 2, n);
      CHECK(cudaMemcpyAsync(host, x, sizeof host, cudaMemcpyDeviceToHost, stream));
      CHECK(cudaStreamSynchronize(stream));
      for (int i = 0; i < n; ++i) right += host[i] == static_cast<float>(8 * i);
    }
    CHECK(cudaFree(x));
    CHECK(cudaStreamDestroy(stream));
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work);
  for (std::thread &thread : threads) thread.join();
  EXPECT_TRUE(right == kThreads * kRounds * n);
  return true;
}
