#include "cuda/error.h"

#include <stdarg.h>
#include <stdio.h>

namespace lily::cuda {
namespace {

thread_local char message[512];
thread_local const char *name = "";

// After one of these errors every later call on the device fails until the process ends.
bool loses_context(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContained:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice: return true;
    default: return false;
  }
}

lily_status status_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return LILY_ERROR_OUT_OF_MEMORY;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInitializationError:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
    case cudaErrorCompatNotSupportedOnDevice: return LILY_ERROR_UNAVAILABLE;
    default: return LILY_ERROR_DEVICE;
  }
}

}  // namespace

lily_status report(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return LILY_OK;
  cudaGetLastError();
  name = cudaGetErrorName(error);
  snprintf(message, sizeof message, "%s: %s (%s)%s", what, name, cudaGetErrorString(error),
           loses_context(error) ? "; the device's context and all of its memory are lost: restart the process" : "");
  return status_of(error);
}

lily_status fail(lily_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  name = "";
  return status;
}

const char *last_error() { return message; }
const char *last_error_name() { return name; }

}  // namespace lily::cuda
