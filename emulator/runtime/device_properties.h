// Capabilities of the emulated architecture, as device properties and attributes.
#pragma once

#include <cuda_runtime_api.h>

namespace lily::emulator::runtime {

cudaError_t device_attribute(int *value, cudaDeviceAttr attribute);

}  // namespace lily::emulator::runtime
