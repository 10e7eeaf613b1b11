// Primary contexts, and the functions of the driver API that programs get from cudaGetDriverEntryPointByVersion: those
// on primary contexts, and cuFuncLoad.
#include "runtime/context.h"

#include <cuda.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>
#include <vector>

#include "runtime/call.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/leaks.h"
#include "runtime/registration.h"

namespace lily::emulator::runtime {
namespace {

struct Thread {
  int chosen = 0;          // by cudaSetDevice
  std::vector<int> stack;  // of contexts; the last one is current
};

int entered = 0;  // contexts that all threads have pushed

Thread &thread() {
  thread_local Thread thread;
  return thread;
}

// Whether the file was there. It is removed.
bool take_file(const char *name) {
  const std::string &folder = environment().control;
  return !folder.empty() && unlink((folder + "/" + name).c_str()) == 0;
}

}  // namespace

int current_device_index() { return thread().stack.empty() ? thread().chosen : thread().stack.back(); }

void choose_device(int index, const char *function) {
  Thread &current = thread();
  current.chosen = index;
  if (current.stack.empty()) current.stack.push_back(index);
  current.stack.back() = index;
  create_context(index, function);
}

void create_context(int index, const char *function) {
  static unsigned long long last = 0;
  if (device(index).context != 0) return;
  device(index).context = ++last;
  if (environment().verbose >= 1)
    fprintf(stderr, "emulator: %s creates the primary context of device %d\n", function, index);
}

void require_context(const char *function) {
  Thread &current = thread();
  if (current.stack.empty()) current.stack.push_back(current.chosen);
  create_context(current.stack.back(), function);
}

void destroy_context(int index) {
  if (device(index).context == 0) return;
  finish_device(index);
  release_all(index);
  forget_attributes(index);
  device(index).context = 0;
}

void obey_resets() {
  // Other code runs between the calls of a library, not within them.
  if (environment().control.empty() || entered > 0) return;
  const bool restarts = take_file("restart");
  if (!take_file("reset") && !restarts) return;
  for (int index = 0; index < device_count(); ++index) {
    if (device(index).context == 0) continue;
    discard_device(index);
    destroy_context(index);
    if (restarts) create_context(index, "other code");
  }
}

namespace {

// Like call(), but the driver API does not set the error that cudaGetLastError returns.
template <class Body>
CUresult driver_call(const char *function, Body &&body) {
  std::lock_guard<std::mutex> lock(runtime_mutex());
  const cudaError_t error = check_call(function, Requirement::kDriver);
  return error != cudaSuccess ? static_cast<CUresult>(error) : body();
}

CUcontext handle_of(int index) { return reinterpret_cast<CUcontext>(&device(index)); }

// The device of a handle, or -1.
int device_of(CUcontext handle) {
  for (int index = 0; index < device_count(); ++index) {
    if (handle == handle_of(index)) return index;
  }
  return -1;
}

CUresult get_device(CUdevice *result, int ordinal) {
  return driver_call("cuDeviceGet", [&] {
    *result = ordinal;
    return is_device(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  });
}

// The count of the handle's owners does not matter: nothing emulated releases it.
CUresult retain(CUcontext *handle, CUdevice index) {
  return driver_call("cuDevicePrimaryCtxRetain", [&] {
    if (!is_device(index)) return CUDA_ERROR_INVALID_DEVICE;
    create_context(index, "cuDevicePrimaryCtxRetain");
    *handle = handle_of(index);
    return CUDA_SUCCESS;
  });
}

CUresult get_state(CUdevice index, unsigned *flags, int *active) {
  return driver_call("cuDevicePrimaryCtxGetState", [&] {
    if (!is_device(index)) return CUDA_ERROR_INVALID_DEVICE;
    *flags = 0;
    *active = device(index).context != 0 ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

CUresult get_id(CUcontext handle, unsigned long long *id) {
  return driver_call("cuCtxGetId", [&] {
    if (handle == nullptr && thread().stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    const int index = handle == nullptr ? thread().stack.back() : device_of(handle);
    if (index < 0) return CUDA_ERROR_INVALID_CONTEXT;
    *id = device(index).context;
    if (*id != 0) return CUDA_SUCCESS;
    report({.kind = "destroyed context", .text = "cuCtxGetId gets the handle of a context that was destroyed"});
    return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  });
}

CUresult push(CUcontext handle) {
  return driver_call("cuCtxPushCurrent", [&] {
    const int index = device_of(handle);
    if (index < 0 || device(index).context == 0) return CUDA_ERROR_INVALID_CONTEXT;
    thread().stack.push_back(index);
    ++entered;
    return CUDA_SUCCESS;
  });
}

CUresult pop(CUcontext *handle) {
  return driver_call("cuCtxPopCurrent", [&] {
    if (thread().stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (handle != nullptr) *handle = handle_of(thread().stack.back());
    thread().stack.pop_back();
    if (entered > 0) --entered;
    return CUDA_SUCCESS;
  });
}

// The handle is that of cudaGetFuncBySymbol.
CUresult load_function(CUfunction handle) {
  return driver_call("cuFuncLoad", [&] {
    const Function *function = find_function(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    function->load();
    return CUDA_SUCCESS;
  });
}

void *find_driver_function(std::string_view symbol) {
  if (symbol == "cuDeviceGet") return reinterpret_cast<void *>(get_device);
  if (symbol == "cuDevicePrimaryCtxRetain") return reinterpret_cast<void *>(retain);
  if (symbol == "cuDevicePrimaryCtxGetState") return reinterpret_cast<void *>(get_state);
  if (symbol == "cuCtxGetId") return reinterpret_cast<void *>(get_id);
  if (symbol == "cuCtxPushCurrent") return reinterpret_cast<void *>(push);
  if (symbol == "cuCtxPopCurrent") return reinterpret_cast<void *>(pop);
  if (symbol == "cuFuncLoad") return reinterpret_cast<void *>(load_function);
  unsupported("the driver function " + std::string(symbol) + " is not emulated");
}

}  // namespace
}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result) {
  return call(__func__, Requirement::kDriver, [&] {
    *function = find_driver_function(symbol);
    if (result != nullptr) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    choose_device(index, "cudaSetDevice");
    return device(index).sticky_error;
  });
}

cudaError_t cudaDeviceReset() {
  return call(__func__, Requirement::kDriver, [&] {
    destroy_context(current_device_index());
    return cudaSuccess;
  });
}

}  // extern "C"
