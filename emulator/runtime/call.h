// The frame around every runtime function: one lock, faults on request, broken contexts, the thread's last error.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>

#include "runtime/errors.h"

namespace lily::emulator::runtime {

enum class Needs {
  kNothing,  // answers without a driver (versions)
  kDriver,   // answers although the context is broken (device count, properties)
  kContext,  // answers with the error of a broken context
};

// Guards all state of the runtime. Kernels run under it: one at a time, whatever the number of threads.
std::mutex &runtime_mutex();

// The error with which this call must fail before it does anything; counts it for LILY_EMULATOR_FAIL_CALL.
cudaError_t refuse_call(const char *function, Needs needs);

// True on the thread that runs host functions, where CUDA forbids runtime calls.
bool &inside_host_function();

template <class Body>
cudaError_t call(const char *function, Needs needs, Body &&body) {
  std::lock_guard<std::mutex> lock(runtime_mutex());
  cudaError_t error = refuse_call(function, needs);
  if (error == cudaSuccess) error = body();
  remember_error(error);
  return error;
}

template <class Body>
cudaError_t call(const char *function, Body &&body) {
  return call(function, Needs::kContext, body);
}

}  // namespace lily::emulator::runtime
