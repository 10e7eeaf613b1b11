// The devices: their state, and the current device of each thread.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "runtime/context.h"
#include "runtime/scheduler.h"

namespace lily::emulator::runtime {

struct Stream;

struct Device {
  int index = 0;
  unsigned long long context = 0;          // id of the primary context; 0: there is none
  cudaError_t sticky_error = cudaSuccess;  // returned by every call after a fatal error, until the process ends
  size_t allocated = 0;                    // bytes of device memory
  std::shared_ptr<Stream> legacy_stream;
  std::vector<OperationPtr> orphans;  // last work of destroyed blocking streams, which the legacy stream waits for
};

int device_count();
bool is_device(int index);
Device &device(int index);

Device &current_device();

// The properties of every device, as configured by the environment.
cudaDeviceProp device_properties();

}  // namespace lily::emulator::runtime
