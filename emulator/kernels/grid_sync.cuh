// Rotates an array by one element per step, with a grid-wide barrier between the read and the write.
#pragma once

#include <cooperative_groups.h>

#include "check.h"

__global__ void rotate(float *x, int n, int steps) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int step = 0; step < steps; ++step) {
    const float next = i < n ? x[(i + 1) % n] : 0;
    grid.sync();
    if (i < n) x[i] = next;
    grid.sync();
  }
}

inline bool test_grid_sync() {
  int n = 250, steps = 5;
  std::vector<float> x(n), want(n);
  for (int i = 0; i < n; ++i) x[i] = i, want[i] = (i + steps) % n;
  DeviceArray<float> device_x(x);
  float *pointer = device_x.get();
  void *arguments[] = {&pointer, &n, &steps};
  CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void *>(rotate), dim3(4), dim3(64), arguments, 0, nullptr));
  finish();
  return compare("grid sync", device_x.host(), want, 0);
}
