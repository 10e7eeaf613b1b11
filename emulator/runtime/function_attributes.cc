// Attributes of kernels.
#include <string>

#include "runtime/call.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/registration.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaError_t set_attribute(Function &function, cudaFuncAttribute attribute, int value) {
  // The kernel's static shared memory also counts towards the limit; Function::kernel() checks it once the kernel is
  // parsed.
  const auto limit = static_cast<int>(device_properties().sharedMemPerBlockOptin);
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || value > limit) return cudaErrorInvalidValue;
      function.allowed_dynamic_shared_bytes = value;
      return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      if (value < -1 || value > 100) return cudaErrorInvalidValue;
      function.shared_carveout = value;
      return cudaSuccess;
    default: unsupported("cudaFuncSetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
  }
}

// Calls body(function) for a kernel on the current device.
template <class Body>
cudaError_t with_function(const char *name, const void *host, Body body) {
  return call(name, [&] {
    Function *function = find_function(host);
    return function != nullptr ? body(*function) : cudaErrorInvalidDeviceFunction;
  });
}

}  // namespace

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *host, cudaFuncAttribute attribute, int value) {
  return with_function(__func__, host, [&](Function &function) { return set_attribute(function, attribute, value); });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *host) {
  return with_function(__func__, host, [&](const Function &function) {
    *attributes = {};
    attributes->sharedSizeBytes = function.kernel().static_shared_bytes();
    attributes->localSizeBytes = function.kernel().local_bytes();
    attributes->maxThreadsPerBlock = function.max_threads_per_block();
    attributes->numRegs = 32;  // a placeholder: PTX does not contain the register count
    attributes->ptxVersion = function.ptx_architecture();
    attributes->binaryVersion = environment().architecture;
    attributes->maxDynamicSharedSizeBytes = function.max_dynamic_shared_bytes();
    attributes->preferredShmemCarveout = function.shared_carveout;
    return cudaSuccess;
  });
}

}  // extern "C"
