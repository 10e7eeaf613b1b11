// Where host memory lies. Several SharedArrayBuffers can be objects of the same memory, which only addresses show.
#include "napi/exports.h"
#include "napi/operands.h"

namespace lily::napi {

// (typed array) -> number
Napi::Value host_address(const Napi::CallbackInfo &info) {
  const void *data = array_memory(info.Env(), info[0], 0, 1, "array");
  return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(data)));
}

}  // namespace lily::napi
