// CUDA devices: what a launch plan needs to know of one, and the current one.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lily/backend.h"

namespace lily::cuda {

// More than any machine has.
constexpr int kMaxDevices = 64;

struct Device {
  int id;
  int compute_major, compute_minor;
  int multiprocessors;
  size_t l2_bytes;
  int shared_bytes_per_block;  // that a kernel may opt in to
};

// nullptr: there is none of this number, or it cannot be used; last_error says why. Only the first call for a device
// asks CUDA, and prepares the kernels for it.
const Device *device(int32_t id);

// LILY_ERROR_UNAVAILABLE: last_error says which of driver and device is missing.
lily_status device_count(int32_t *count);

// Makes a device the current one of this thread as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int32_t id);
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;
  ~DeviceGuard();

  // LILY_OK, or why the device could not be made the current one.
  lily_status status() const { return status_; }

 private:
  int previous_ = -1;
  lily_status status_;
};

}  // namespace lily::cuda
