#include "runtime/errors.h"

#include "runtime/call.h"

namespace lily::emulator::runtime {
namespace {

struct Entry {
  cudaError_t error;
  const char *name;
};

// The errors that native/cuda, the tests and the emulator name.
#define ENTRY(name) {name, #name}
constexpr Entry kErrors[] = {
    ENTRY(cudaSuccess),
    ENTRY(cudaErrorInvalidValue),
    ENTRY(cudaErrorMemoryAllocation),
    ENTRY(cudaErrorInitializationError),
    ENTRY(cudaErrorInvalidConfiguration),
    ENTRY(cudaErrorInvalidPitchValue),
    ENTRY(cudaErrorStubLibrary),
    ENTRY(cudaErrorInsufficientDriver),
    ENTRY(cudaErrorDevicesUnavailable),
    ENTRY(cudaErrorMissingConfiguration),
    ENTRY(cudaErrorInvalidDeviceFunction),
    ENTRY(cudaErrorNoDevice),
    ENTRY(cudaErrorInvalidDevice),
    ENTRY(cudaErrorECCUncorrectable),
    ENTRY(cudaErrorNvlinkUncorrectable),
    ENTRY(cudaErrorContained),
    ENTRY(cudaErrorInvalidResourceHandle),
    ENTRY(cudaErrorIllegalState),
    ENTRY(cudaErrorNotReady),
    ENTRY(cudaErrorIllegalAddress),
    ENTRY(cudaErrorLaunchTimeout),
    ENTRY(cudaErrorContextIsDestroyed),
    ENTRY(cudaErrorAssert),
    ENTRY(cudaErrorHardwareStackError),
    ENTRY(cudaErrorIllegalInstruction),
    ENTRY(cudaErrorMisalignedAddress),
    ENTRY(cudaErrorInvalidAddressSpace),
    ENTRY(cudaErrorInvalidPc),
    ENTRY(cudaErrorLaunchFailure),
    ENTRY(cudaErrorTensorMemoryLeak),
    ENTRY(cudaErrorNotPermitted),
    ENTRY(cudaErrorNotSupported),
    ENTRY(cudaErrorSystemNotReady),
    ENTRY(cudaErrorSystemDriverMismatch),
    ENTRY(cudaErrorCompatNotSupportedOnDevice),
    ENTRY(cudaErrorMpsClientTerminated),
    ENTRY(cudaErrorStreamCaptureUnsupported),
    ENTRY(cudaErrorStreamCaptureInvalidated),
    ENTRY(cudaErrorStreamCaptureMerge),
    ENTRY(cudaErrorStreamCaptureUnmatched),
    ENTRY(cudaErrorStreamCaptureUnjoined),
    ENTRY(cudaErrorStreamCaptureIsolation),
    ENTRY(cudaErrorStreamCaptureImplicit),
    ENTRY(cudaErrorCapturedEvent),
    ENTRY(cudaErrorStreamCaptureWrongThread),
    ENTRY(cudaErrorExternalDevice),
    ENTRY(cudaErrorUnknown),
};
#undef ENTRY

thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

bool find_error(std::string_view name, cudaError_t *error) {
  for (const Entry &each : kErrors) {
    if (name != each.name) continue;
    *error = each.error;
    return true;
  }
  return false;
}

bool loses_context(cudaError_t error) {
  switch (error) {
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContained:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice: return true;
    default: return false;
  }
}

void remember_error(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

const char *cudaGetErrorName(cudaError_t error) {
  for (const Entry &each : kErrors) {
    if (each.error == error) return each.name;
  }
  return "unrecognized error code";
}

// The library shows it beside the name.
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

// A sticky error is returned by every call.
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = current_sticky_error();
  return error != cudaSuccess ? error : last_error;
}

}  // extern "C"
