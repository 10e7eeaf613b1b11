// The devices: their state, and which one a thread has chosen.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <vector>

#include "runtime/scheduler.h"

namespace lily::emulator::runtime {

struct Stream;

struct Device {
  int index = 0;
  cudaError_t broken = cudaSuccess;  // what broke the context; never mended, as on a GPU
  unsigned flags = cudaDeviceScheduleAuto;
  size_t allocated = 0;  // bytes of device and managed memory
  std::set<int> peers;   // whose memory it may access
  std::shared_ptr<Stream> legacy_stream;
  std::vector<OperationPtr> orphans;  // last work of destroyed blocking streams, for which the legacy stream waits
};

int device_count();
bool is_device(int index);
Device &device(int index);

int &current_device_index();
Device &current_device();

// The properties a device shows, as the environment describes it.
cudaDeviceProp device_properties(int index);

}  // namespace lily::emulator::runtime
