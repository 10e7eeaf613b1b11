// Wraps every runtime function: takes the lock, injects requested errors, checks for sticky errors, and records the
// thread's last error.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>

#include "runtime/errors.h"

namespace lily::emulator::runtime {

enum class Requirement {
  kNothing,  // needs no driver (versions)
  kDriver,   // needs a driver, but no context (device count, properties)
  kRelease,  // needs a context, and creates it if there is none, but works after a sticky error
  kContext,  // the same, but fails with the sticky error of the context
};

// Guards all state of the runtime. Kernels run while it is held, so one at a time regardless of the number of host
// threads.
std::mutex &runtime_mutex();

// Counts the call for LILY_EMULATOR_FAIL_CALL and returns the error with which it must fail before it does anything.
cudaError_t check_call(const char *function, Requirement requirement);

// True on the thread that runs host functions, in which CUDA forbids runtime calls.
bool &inside_host_function();

template <class Body>
cudaError_t call(const char *function, Requirement requirement, Body &&body) {
  std::lock_guard<std::mutex> lock(runtime_mutex());
  cudaError_t error = check_call(function, requirement);
  if (error == cudaSuccess) error = body();
  remember_error(error);
  return error;
}

template <class Body>
cudaError_t call(const char *function, Body &&body) {
  return call(function, Requirement::kContext, body);
}

}  // namespace lily::emulator::runtime
