#include "napi/errors.h"

#include "binding/reader.h"

namespace lily::napi {

Napi::Error make_error(Napi::Env env, const char *code, const std::string &message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  return error;
}

Napi::Error argument_error(Napi::Env env, const char *code, const char *name, const std::string &message) {
  Napi::Error error = make_error(env, code, std::string(name) + ": " + message);
  error.Set("argument", name);
  return error;
}

Failure::Failure(const lily_backend &backend, lily_status failed) : status(failed) {
  if (status == LILY_OK) return;
  message = backend.last_error();
  device_error = backend.last_error_name();
}

Napi::Error Failure::error(Napi::Env env) const {
  Napi::Error error = make_error(env, binding::error_code(status), message);
  if (!device_error.empty()) error.Set("cudaError", device_error);
  return error;
}

void check(Napi::Env env, const lily_backend &backend, lily_status status) {
  if (status != LILY_OK) throw Failure(backend, status).error(env);
}

Napi::Error out_of_memory(Napi::Env env, const lily_backend &backend, const char *what, size_t bytes) {
  // An allocation also fails if an earlier error of the device is pending: then that error is reported.
  const Failure failure(backend, LILY_ERROR_OUT_OF_MEMORY);
  if (!failure.device_error.empty() && failure.device_error != "cudaErrorMemoryAllocation") {
    return Failure(backend, LILY_ERROR_DEVICE).error(env);
  }
  return make_error(
      env, "ERR_LILY_OUT_OF_MEMORY",
      "no memory for " + std::string(what) + " of " + std::to_string(bytes) + " bytes: " + failure.message);
}

}  // namespace lily::napi
