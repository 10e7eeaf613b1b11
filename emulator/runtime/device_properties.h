// What a device of the emulated architecture can do, as properties and as attributes.
#pragma once

#include <cuda_runtime_api.h>

namespace lily::emulator::runtime {

cudaError_t device_attribute(int *value, cudaDeviceAttr attribute, int index);

}  // namespace lily::emulator::runtime
