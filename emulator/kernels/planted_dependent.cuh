// Planted mistakes in programmatic dependent launch: accesses before griddepcontrol.wait to what an earlier launch
// uses, and a block that does not wait. On architectures before 9.0 launches do not overlap, and the kernels do
// nothing.
#pragma once

#include "planted_memory.cuh"

__device__ inline void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void start_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// y = x + 1. The first kernel of each case.
__global__ void dependent_first(const float *x, float *y) {
  start_dependents();
  y[threadIdx.x] = x[threadIdx.x] + 1;
}

// y += x: `y` is what the first kernel writes, and no kernel writes `x`.
template <bool kBug>
__global__ void dependent_read(const float *x, float *y) {
  const float added = x[threadIdx.x];
  if (!kBug) wait_for_earlier();
  const float sum = y[threadIdx.x] + added;  // finding: dependent_read dependent_graph
  if (kBug) wait_for_earlier();
  y[threadIdx.x] = sum;
}

// Overwrites `x`, which the first kernel reads.
template <bool kBug>
__global__ void dependent_write(float *x, float *y) {
  if (!kBug) wait_for_earlier();
  x[threadIdx.x] = 0;  // finding: dependent_write
  if (kBug) wait_for_earlier();
  y[threadIdx.x] += 3;
}

// The second block has nothing to do.
template <bool kBug>
__global__ void dependent_exit(float *y) {
  if (kBug && blockIdx.x == 1) return;  // finding: dependent_exit
  wait_for_earlier();
  if (blockIdx.x == 0) y[threadIdx.x] += 3;
}  // finding: dependent_exit

// One thread waits for its block.
template <bool kBug>
__global__ void dependent_barrier(float *y) {
  if (threadIdx.x == 40) wait_for_earlier();
  if (!kBug) __syncthreads();
  y[threadIdx.x] += 3;  // finding: dependent_barrier
}

// Between the first and the last kernel: whether it waits before the last one may start.
template <bool kBug>
__global__ void dependent_middle(float *z) {
  if (kBug) start_dependents();
  wait_for_earlier();
  if (!kBug) start_dependents();
  z[blockIdx.x * blockDim.x + threadIdx.x] = 0;
}

// Its wait is for the kernel in the middle; it relies on that kernel's wait for the first one.
__global__ void dependent_last(float *y) {
  y[threadIdx.x] += 3;  // finding: dependent_chain
  wait_for_earlier();
}

template <class... Parameters>
void launch_dependent(void (*kernel)(Parameters...), int blocks, cudaStream_t stream, Parameters... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = kCount;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Runs y = x + 1 with x = 3, and then launch(stream, x, y), which must add 3 to y.
template <class Launch>
bool run_after_first(const Launch &launch) {
  DeviceArray<float> x(std::vector<float>(kCount, 3)), y(kCount);
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  dependent_first<<<1, kCount, 0, stream>>>(x.get(), y.get());
  launch(stream, x.get(), y.get());
  finish({stream});
  CHECK(cudaStreamDestroy(stream));
  return y.host()[kCount - 1] == 7;
}

template <bool kBug>
bool run_dependent_read() {
  return run_after_first(
      [](cudaStream_t stream, const float *x, float *y) { launch_dependent(dependent_read<kBug>, 1, stream, x, y); });
}
template <bool kBug>
bool run_dependent_write() {
  return run_after_first(
      [](cudaStream_t stream, float *x, float *y) { launch_dependent(dependent_write<kBug>, 1, stream, x, y); });
}
template <bool kBug>
bool run_dependent_exit() {
  return run_after_first(
      [](cudaStream_t stream, float *, float *y) { launch_dependent(dependent_exit<kBug>, 2, stream, y); });
}
template <bool kBug>
bool run_dependent_barrier() {
  return run_after_first(
      [](cudaStream_t stream, float *, float *y) { launch_dependent(dependent_barrier<kBug>, 1, stream, y); });
}
template <bool kBug>
bool run_dependent_chain() {
  DeviceArray<float> z(2 * kCount);
  return run_after_first([&](cudaStream_t stream, float *, float *y) {
    launch_dependent(dependent_middle<kBug>, 2, stream, z.get());
    launch_dependent(dependent_last, 1, stream, y);
  });
}
template <bool kBug>
bool run_dependent_graph() {
  DeviceArray<float> x(std::vector<float>(kCount, 3)), y(kCount);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  dependent_first<<<1, kCount, 0, stream>>>(x.get(), y.get());
  launch_dependent(dependent_read<kBug>, 1, stream, static_cast<const float *>(x.get()), y.get());
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int launch = 0; launch < 2; ++launch) CHECK(cudaGraphLaunch(executable, stream));
  finish({stream});
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return y.host()[0] == 7;
}
