// CUDA devices: the properties that plans depend on, and the contexts in which calls run.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lily/backend.h"

namespace lily::cuda {

// The first compute capability for which CUDA 13 compiles, times ten.
constexpr int kLeastCapability = 75;

struct Constants;

struct Device {
  int id;
  int compute_major, compute_minor;
  int architecture;  // the virtual one of the code that the device executes (tiles/table.h)
  int multiprocessors;
  size_t l2_bytes;
  int shared_bytes_per_block;  // opt-in maximum of a kernel
  int shared_bytes_per_multiprocessor;
  int threads_per_multiprocessor;
  double clock_hz;               // of the multiprocessors, at most
  double dram_bytes_per_second;  // of the data sheet
  const Constants *constants;    // null: by capability (launch/constants.h); others for tools

  bool operator==(const Device &) const = default;
};

// Returns nullptr if the device does not exist or is not supported; last_error then has the reason. The first call for
// a device queries CUDA, which creates no context; later calls return the cached result.
const Device *device(int32_t id);

// Returns LILY_ERROR_UNAVAILABLE if the driver or a device is missing; last_error says which.
lily_status device_count(int32_t *count);

// Pushes the primary context of a device on this thread's stack of contexts for the lifetime of the guard, so that CUDA
// calls use this device. The first guard of a device creates the context. The thread's current device does not change,
// and no other device gets a context.
class DeviceGuard {
 public:
  explicit DeviceGuard(int32_t id);
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;
  ~DeviceGuard();

  // LILY_OK, or the reason why calls on the device cannot run.
  lily_status status() const { return status_; }
  // The status of calls under this guard. If they failed because other code has reset the device since the guard
  // entered it, that is the reason.
  lily_status explain(lily_status status);
  // Other code of the process has destroyed the context, and with it all memory, streams, events and graphs.
  bool context_is_lost() const { return context_is_lost_; }

 private:
  const int32_t id_;
  bool has_entered_ = false;
  bool context_is_lost_ = false;
  lily_status status_;
};

// Upper bound on the static shared memory of a kernel that also has dynamic shared memory.
constexpr int kStaticBytes = 1024;

// Before each launch of a kernel, with the bytes of its dynamic shared memory: loads the kernel and sets its attributes
// in the context that a guard has entered, unless that has been done.
lily_status prepare_kernel(const void *kernel, int shared_bytes);

// Ends the use of all contexts by the backend. The next guard of a device enters the context that exists then.
void forget_contexts();

}  // namespace lily::cuda
