#include "napi/operands.h"

#include <string>

#include "core/problem.h"
#include "napi/backends.h"
#include "napi/handles.h"

namespace lily::napi {
namespace {

// Bytes from the first element to the end of the last row; -1 if they do not fit into an int64.
int64_t extent(int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) {
  if (rows == 0 || columns == 0) return 0;
  int64_t elements = 0, bytes = 0;
  if (__builtin_mul_overflow(rows - 1, pitch, &elements) || __builtin_add_overflow(elements, columns, &elements) ||
      __builtin_mul_overflow(elements, element_bytes, &bytes)) {
    return -1;
  }
  return bytes;
}

// False if the value is not a typed array.
bool typed_array_memory(napi_env env, napi_value value, void **data, size_t *bytes) {
  // Node-API does not write the type of an array that it does not support.
  auto type = static_cast<napi_typedarray_type>(-1);
  size_t length = 0;
  if (napi_get_typedarray_info(env, value, &type, &length, data, nullptr, nullptr) != napi_ok) return false;
  // An empty array may have no memory, but in the ABI NULL means that the operand is absent.
  static char empty[1];
  if (*data == nullptr) *data = empty;
  static constexpr size_t kElementBytes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  if (static_cast<size_t>(type) >= sizeof kElementBytes / sizeof *kElementBytes) return false;
  *bytes = length * kElementBytes[type];
  return true;
}

}  // namespace

int64_t whole_number(Napi::Env env, double number, const char *name) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53
  if (number >= -kLimit && number <= kLimit) return static_cast<int64_t>(number);
  throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a whole number");
}

void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name) {
  void *data = nullptr;
  size_t bytes = 0;
  const int64_t needed = extent(1, count, count, element_bytes);
  if (typed_array_memory(env, value, &data, &bytes) && needed >= 0 && bytes >= static_cast<uint64_t>(needed)) {
    return data;
  }
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must be a typed array of at least " + std::to_string(needed) + " bytes");
}

const lily_backend &available_backend(Napi::Env env, double number) {
  const lily_backend *backend = backend_by_number(number);
  if (backend == nullptr) throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  return *backend;
}

void *Operands::memory(napi_value value, int64_t offset, int64_t bytes, const char *name) const {
  if (backend != lily_cpu_backend()) return device_memory_of(env, device, value, offset, bytes, name);
  void *data = nullptr;
  size_t given = 0;
  if (!typed_array_memory(env, value, &data, &given)) {
    throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a typed array");
  }
  const bool fits = bytes >= 0 && offset >= 0 && static_cast<uint64_t>(offset) <= given &&
                    static_cast<uint64_t>(bytes) <= given - static_cast<uint64_t>(offset);
  if (fits) return static_cast<char *>(data) + offset;
  throw make_error(env, "ERR_LILY_SHAPE",
                   std::string(name) + " has no " + std::to_string(bytes) + " bytes from offset " +
                       std::to_string(offset) + ": it has " + std::to_string(given));
}

void *Operands::array(napi_value value, int64_t offset, int64_t count, int64_t element_bytes, const char *name) const {
  return memory(value, offset, extent(1, count, count, element_bytes), name);
}

lily_matrix Operands::matrix(napi_value value, const double *numbers, int64_t rows, int64_t columns,
                             const char *name) const {
  using namespace slot_field;
  const auto whole = [&](Position field) { return whole_number(env, numbers[field], kNames[field]); };
  const int64_t pitch = whole(kPitch);
  const int32_t dtype = static_cast<int32_t>(whole(kDtype));
  const int64_t element_bytes = dtype_bytes(dtype);
  if (element_bytes == 0) throw make_error(env, "ERR_LILY_DTYPE", "unknown dtype");
  const int64_t bytes = extent(rows, columns, pitch, element_bytes);
  if (bytes < 0 || (pitch < columns && rows > 1)) {
    throw make_error(env, "ERR_LILY_SHAPE",
                     std::string(name) + " cannot have " + std::to_string(rows) + " rows of " +
                         std::to_string(columns) + " elements with pitch " + std::to_string(pitch));
  }
  return {memory(value, whole(kByteOffset), bytes, name), pitch, dtype, numbers[kAccumulate] != 0 ? 1 : 0};
}

}  // namespace lily::napi
