#include "napi/values.h"

#include <string.h>

#include <string>

#include "lily/cpu.h"
#include "napi/backends.h"
#include "napi/handles.h"
#include "napi/self_test.h"

namespace lily::napi {
namespace {

// False if the value is not a typed array. Node.js finds the memory of a typed array faster when it is queried as a
// Buffer, because it does not look for the class then.
bool typed_array_memory(napi_env env, napi_value value, void **data, size_t *bytes) {
  bool is_typed_array = false;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array) return false;
  if (napi_get_buffer_info(env, value, data, bytes) != napi_ok) return false;
  // An empty array may have no memory, but in the ABI NULL means that the operand is absent.
  alignas(64) static char empty[1];
  if (*data == nullptr) *data = empty;
  return true;
}

}  // namespace

int64_t whole_number(Napi::Env env, double number, const char *name) {
  int64_t whole = 0;
  if (binding::to_whole(number, &whole)) return whole;
  throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a whole number");
}

int64_t whole_number(Napi::Env env, double number, int64_t least, int64_t most, const char *name) {
  const int64_t whole = whole_number(env, number, name);
  if (whole >= least && whole <= most) return whole;
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must be from " + std::to_string(least) + " to " + std::to_string(most));
}

void read_numbers(Napi::Env env, napi_value value, int64_t count, double *numbers) {
  size_t bytes = 0;
  const void *const data = array_bytes(env, value, &bytes, "descriptor");
  if (bytes / sizeof(double) < static_cast<uint64_t>(count)) {
    throw make_error(env, "ERR_LILY_ARGUMENT", "the descriptor must have " + std::to_string(count) + " numbers");
  }
  // Without numbers either pointer may be null, which memcpy does not allow.
  if (count > 0) memcpy(numbers, data, static_cast<size_t>(count) * sizeof(double));
}

void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name) {
  void *data = nullptr;
  size_t bytes = 0;
  int64_t needed = 0;
  const bool is_possible = !__builtin_mul_overflow(count, element_bytes, &needed);
  if (typed_array_memory(env, value, &data, &bytes) && is_possible && bytes >= static_cast<uint64_t>(needed) &&
      reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(element_bytes) == 0) {
    return data;
  }
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must be a typed array of at least " + std::to_string(needed) +
                       " bytes, aligned to " + std::to_string(element_bytes));
}

void *array_bytes(Napi::Env env, napi_value value, size_t *bytes, const char *name) {
  void *data = nullptr;
  if (typed_array_memory(env, value, &data, bytes)) return data;
  throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a typed array");
}

binding::Memory operand_memory(Napi::Env env, const lily_backend &backend, int32_t device, napi_value value,
                               int64_t offset, int64_t bytes, const char *name) {
  if (&backend == lily_cpu_backend()) {
    size_t given = 0;
    void *const data = array_bytes(env, value, &given, name);
    return {static_cast<char *>(data), static_cast<int64_t>(given)};
  }
  void *const data = device_memory_of(env, device, value, offset, bytes, name);
  return {static_cast<char *>(data) - offset, offset + bytes};
}

void check(Napi::Env env, const binding::Error &error) {
  if (error.code != nullptr) throw make_error(env, error.code, error.message);
}

const lily_backend &available_backend(Napi::Env env, double number) {
  const lily_backend *backend = backend_by_number(whole_number(env, number, 0, 1, "backend"));
  if (backend == nullptr) throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  return *backend;
}

int32_t device_of(Napi::Env env, const lily_backend &backend, double number) {
  // A backend may have fewer devices. Every number that is used has pools of its own.
  const int64_t most = &backend == lily_cpu_backend() ? 0 : LILY_MAX_DEVICES - 1;
  return static_cast<int32_t>(whole_number(env, number, 0, most, "device"));
}

int32_t usable_device_of(Napi::Env env, const lily_backend &backend, double number) {
  const int32_t device = device_of(env, backend, number);
  if (&backend != lily_cpu_backend()) check_self_test(env, backend, device);
  return device;
}

}  // namespace lily::napi
