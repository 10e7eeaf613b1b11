// CUDA devices: the properties that plans depend on, and the current device of a thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lily/backend.h"

namespace lily::cuda {

// An upper bound on the devices of one machine.
constexpr int kMaxDevices = 64;

struct Device {
  int id;
  int compute_major, compute_minor;
  int multiprocessors;
  size_t l2_bytes;
  int shared_bytes_per_block;  // opt-in maximum of a kernel
  int shared_bytes_per_multiprocessor;
  int threads_per_multiprocessor;
  double clock_hz;               // of the multiprocessors, at most
  double dram_bytes_per_second;  // of the data sheet
};

// Returns nullptr if the device does not exist or cannot be used; last_error then has the reason. The first call for a
// device queries CUDA and prepares the kernels; later calls return the cached result.
const Device *device(int32_t id);

// Returns LILY_ERROR_UNAVAILABLE if the driver or a device is missing; last_error says which.
lily_status device_count(int32_t *count);

// Makes a device the current one of this thread for the lifetime of the guard.
class DeviceGuard {
 public:
  explicit DeviceGuard(int32_t id);
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;
  ~DeviceGuard();

  // LILY_OK, or the reason why the device could not be made the current one.
  lily_status status() const { return status_; }

 private:
  int previous_ = -1;
  lily_status status_;
};

}  // namespace lily::cuda
