// Planted synchronisation mistakes: races, reads of copies in flight, divergent barriers and warp operations.
#pragma once

#include "planted_memory.cuh"
#include "tensor_core.cuh"

template <bool kBug>
__global__ void shared_race(float *x) {
  __shared__ float row[kCount];
  row[(threadIdx.x + 1) % kCount] = 0;
  __syncthreads();
  row[threadIdx.x] = threadIdx.x;  // finding: shared_race
  if (!kBug) __syncthreads();
  x[threadIdx.x] = row[(threadIdx.x + 32) % kCount];  // finding: shared_race
}

template <bool kBug>
__global__ void global_race(float *sums) {
  if (threadIdx.x == 0) sums[kBug ? 0 : blockIdx.x] += 1;  // finding: global_race
}

template <bool kBug>
__global__ void early_read(const uint4 *x, uint4 *y) {
  __shared__ uint4 row[kCount];
  copy_async(&row[threadIdx.x], x + threadIdx.x, true);
  commit_copies();
  wait_copies<kBug ? 1 : 0>();
  y[threadIdx.x] = row[threadIdx.x];  // finding: early_read
  wait_copies<0>();
}

template <bool kBug>
__global__ void divergent_operation(unsigned *x) {
  unsigned value = threadIdx.x;
  if (kBug && threadIdx.x % 2 == 0) {
    value = __ballot_sync(0xffffffffu, value > 3);  // finding: divergent_operation
  } else {
    value = __shfl_xor_sync(0xffffffffu, value, 1);  // finding: divergent_operation
  }
  x[threadIdx.x] = value;
}

// __shfl_sync is inlined at two levels: the finding must name this line, not only lines of the CUDA headers.
template <bool kBug>
__global__ void absent_lane(unsigned *x) {
  unsigned value = threadIdx.x;
  if (threadIdx.x < 16) value = __shfl_sync(0xffffu, value, kBug ? 20 : 10);  // finding: absent_lane
  x[threadIdx.x] = value;
}

template <bool kBug>
__global__ void divergent_barrier(unsigned *x) {
  if (!kBug || threadIdx.x % 2 == 0) {
    x[threadIdx.x] = 1;
    __syncthreads();  // finding: divergent_barrier
  } else {
    x[threadIdx.x] = 2;
    __syncthreads();  // finding: divergent_barrier
    x[threadIdx.x] = 3;
  }
}

// Two warps wait for each other at different barriers.
template <bool kBug>
__global__ void deadlock(unsigned *x) {
  if (threadIdx.x < 32) {
    asm volatile("bar.sync 1, 64;" ::: "memory");  // finding: deadlock
  } else if (kBug) {
    asm volatile("bar.sync 2, 64;" ::: "memory");  // finding: deadlock
  } else {
    asm volatile("bar.sync 1, 64;" ::: "memory");
  }
  x[threadIdx.x] = 1;
}

template <bool kBug>
bool run_shared_race() {
  DeviceArray<float> x(kCount);
  shared_race<kBug><<<1, kCount>>>(x.get());
  finish();
  return x.host()[0] == 32;
}

template <bool kBug>
bool run_global_race() {
  DeviceArray<float> sums(std::vector<float>(4, 0));
  global_race<kBug><<<4, 32>>>(sums.get());
  finish();
  return sums.host()[3] == 1;
}

template <bool kBug>
bool run_early_read() {
  DeviceArray<uint4> x(std::vector<uint4>(kCount, uint4{1, 2, 3, 4})), y(kCount);
  early_read<kBug><<<1, kCount>>>(x.get(), y.get());
  finish();
  return y.host()[kCount - 1].w == 4;
}

// Runs the kernel on one block; x[0] must be `want`.
inline bool run_order(void (*kernel)(unsigned *), int threads, unsigned want) {
  DeviceArray<unsigned> x(threads);
  kernel<<<1, threads>>>(x.get());
  finish();
  return x.host()[0] == want;
}

template <bool kBug>
bool run_divergent_operation() {
  return run_order(divergent_operation<kBug>, 32, 1);
}
template <bool kBug>
bool run_absent_lane() {
  return run_order(absent_lane<kBug>, 32, 10);
}
template <bool kBug>
bool run_divergent_barrier() {
  return run_order(divergent_barrier<kBug>, 64, 1);
}
template <bool kBug>
bool run_deadlock() {
  return run_order(deadlock<kBug>, 64, 1);
}
