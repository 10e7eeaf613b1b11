#include "runtime/device.h"

#include <cstdio>
#include <cstring>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/device_properties.h"
#include "runtime/environment.h"

namespace lily::emulator::runtime {

int device_count() { return environment().devices; }

bool is_device(int index) { return index >= 0 && index < device_count(); }

Device &device(int index) {
  static std::vector<Device> *const devices = [] {
    auto *result = new std::vector<Device>(device_count());
    for (int i = 0; i < device_count(); ++i) (*result)[i].index = i;
    return result;
  }();
  return (*devices)[index];
}

Device &current_device() { return device(current_device_index()); }

namespace {

cudaError_t peer_access(int *result, int device, int peer) {
  if (!is_device(device) || !is_device(peer)) return cudaErrorInvalidDevice;
  *result = device != peer;
  return cudaSuccess;
}

}  // namespace
}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
  *count = 0;  // also if the driver or the device is missing
  return call(__func__, Requirement::kDriver, [&] {
    *count = device_count();
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int *index) {
  return call(__func__, Requirement::kDriver, [&] {
    *index = current_device_index();
    return cudaSuccess;
  });
}

cudaError_t cudaSetDeviceFlags(unsigned flags) {
  return call(__func__, [&] {
    current_device().flags = flags;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceFlags(unsigned *flags) {
  return call(__func__, [&] {
    *flags = current_device().flags;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call(__func__, [&] {
    if (const cudaError_t error = check_unsafe_call()) return error;
    finish_device(current_device_index());
    return current_device().sticky_error;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    *properties = device_properties(index);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    return device_attribute(value, attribute, index);
  });
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    return snprintf(id, length, "0000:%02x:00.0", index + 1) < length ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  return call(__func__, [&] {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceCanAccessPeer(int *result, int index, int peer) {
  return call(__func__, Requirement::kDriver, [&] { return peer_access(result, index, peer); });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return call(__func__, [&] {
    if (!is_device(peer) || peer == current_device_index()) return cudaErrorInvalidDevice;
    if (flags != 0) return cudaErrorInvalidValue;
    return current_device().peers.insert(peer).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
  });
}

cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return call(__func__, [&] {
    if (!is_device(peer)) return cudaErrorInvalidDevice;
    return current_device().peers.erase(peer) == 1 ? cudaSuccess : cudaErrorPeerAccessNotEnabled;
  });
}

// An old driver reports its version; without a driver the version is 0.
cudaError_t cudaDriverGetVersion(int *version) {
  return call(__func__, Requirement::kNothing, [&] {
    const Driver driver = environment().driver;
    *version = driver == Driver::kNone ? 0 : driver == Driver::kOld ? 11040 : CUDART_VERSION;
    return cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  return call(__func__, Requirement::kNothing, [&] {
    *version = CUDART_VERSION;
    return cudaSuccess;
  });
}

// The emulator has no limits and no profiler.
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) {
  return call(__func__, [] { return cudaSuccess; });
}

cudaError_t cudaProfilerStart() {
  return call(__func__, [] { return cudaSuccess; });
}

cudaError_t cudaProfilerStop() {
  return call(__func__, [] { return cudaSuccess; });
}

}  // extern "C"
