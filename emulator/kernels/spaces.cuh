// Parameters of 4 KiB passed by value, and an array in local memory.
#pragma once

#include "check.h"

// With the 8-byte pointer: 4096 bytes, the largest parameter size that every architecture supports.
struct LargeParameter {
  int values[1022];
};

__global__ void read_spaces(const __grid_constant__ LargeParameter parameter, int *sums) {
  int stack[16];
  for (int i = 0; i < 16; ++i) stack[(i * 5 + threadIdx.x) % 16] = i;
  int sum = 0;
  for (int i = threadIdx.x; i < 1022; i += blockDim.x) {
    sum += parameter.values[i] * (i % 7) + stack[parameter.values[i] % 16];
  }
  sums[threadIdx.x] = sum;
}

inline bool test_spaces() {
  constexpr int kThreads = 64;
  LargeParameter parameter;
  for (int i = 0; i < 1022; ++i) parameter.values[i] = i * i % 1009;
  std::vector<int> want(kThreads, 0);
  for (int thread = 0; thread < kThreads; ++thread) {
    int stack[16];
    for (int i = 0; i < 16; ++i) stack[(i * 5 + thread) % 16] = i;
    for (int i = thread; i < 1022; i += kThreads) {
      want[thread] += parameter.values[i] * (i % 7) + stack[parameter.values[i] % 16];
    }
  }
  DeviceArray<int> sums(kThreads);
  read_spaces<<<1, kThreads>>>(parameter, sums.get());
  finish();
  return compare("spaces", sums.host(), want, 0);
}
