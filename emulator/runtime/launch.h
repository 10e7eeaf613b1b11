// Kernel launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

struct LaunchRequest {
  const void *host = nullptr;
  dim3 grid, block;
  void **arguments = nullptr;
  size_t dynamic_shared_bytes = 0;
  bool cooperative = false;
  bool dependent = false;  // programmatic dependent launch
};

cudaError_t launch_kernel(Stream &stream, const LaunchRequest &request);

// Copies the launch attributes into the request; ends the process for an attribute that is not emulated.
void read_attributes(const cudaLaunchConfig_t &config, LaunchRequest *request);

}  // namespace lily::emulator::runtime
