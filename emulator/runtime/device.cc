#include "runtime/device.h"

#include "runtime/call.h"
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

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    *properties = device_properties();
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index) {
  return call(__func__, Requirement::kDriver, [&] {
    if (!is_device(index)) return cudaErrorInvalidDevice;
    return device_attribute(value, attribute);
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

}  // extern "C"
