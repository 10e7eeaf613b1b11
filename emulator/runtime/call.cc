#include "runtime/call.h"

#include <atomic>
#include <cstdio>

#include "runtime/context.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/scheduler.h"

namespace lily::emulator::runtime {
namespace {

uint64_t calls = 0;        // of all functions
uint64_t named_calls = 0;  // of environment().fail_function only

bool fault_requested(const char *function) {
  const Environment &env = environment();
  if (env.fail_call == 0) return false;
  if (env.fail_function.empty()) return calls == env.fail_call;
  return env.fail_function == function && ++named_calls == env.fail_call;
}

cudaError_t driver_error() {
  switch (environment().driver) {
    case Driver::kNone:
    case Driver::kOld: return cudaErrorInsufficientDriver;
    case Driver::kNoDevice: return cudaErrorNoDevice;
    case Driver::kPresent: return cudaSuccess;
  }
  return cudaSuccess;
}

}  // namespace

std::mutex &runtime_mutex() {
  // Never destroyed: programs call the runtime from static destructors.
  static std::mutex *const mutex = new std::mutex;
  return *mutex;
}

bool &inside_host_function() {
  thread_local bool inside = false;
  return inside;
}

uint64_t calls_so_far() { return calls; }

cudaError_t check_call(const char *function, Requirement requirement) {
  ++calls;
  note_activity();
  obey_resets();
  if (environment().verbose >= 2) fprintf(stderr, "emulator: call %llu: %s\n", (unsigned long long)calls, function);
  if (fault_requested(function)) {
    const cudaError_t error = environment().fail_error;
    fprintf(stderr, "emulator: call %llu, %s, fails with %s as requested\n", (unsigned long long)calls, function,
            cudaGetErrorName(error));
    if (loses_context(error)) current_device().sticky_error = error;
    return error;
  }
  if (requirement == Requirement::kNothing) return cudaSuccess;
  if (inside_host_function()) {
    report({.kind = "runtime call in a host function",
            .text = std::string(function) + " was called inside a host function"});
    return cudaErrorNotPermitted;
  }
  if (const cudaError_t error = driver_error()) return error;
  if (requirement == Requirement::kDriver) return cudaSuccess;
  require_context(function);
  return requirement == Requirement::kContext ? current_sticky_error() : cudaSuccess;
}

cudaError_t current_sticky_error() {
  return environment().driver == Driver::kPresent ? current_device().sticky_error : cudaSuccess;
}

}  // namespace lily::emulator::runtime
