#include "napi/operands.h"

#include <string.h>

#include <algorithm>
#include <string>

#include "core/problem.h"
#include "lily/cpu.h"
#include "napi/backends.h"
#include "napi/handles.h"
#include "napi/self_test.h"

namespace lily::napi {
namespace {

// Bytes from the first element to the end of the last row; -1 if they exceed kMaxBytes.
int64_t extent(int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) {
  if (rows == 0 || columns == 0) return 0;
  int64_t elements = 0, bytes = 0;
  if (__builtin_mul_overflow(rows - 1, pitch, &elements) || __builtin_add_overflow(elements, columns, &elements) ||
      __builtin_mul_overflow(elements, element_bytes, &bytes) || bytes > kMaxBytes) {
    return -1;
  }
  return bytes;
}

// False if the value is not a typed array. Node.js finds the memory of a typed array faster as that of a Buffer,
// because it does not look for the class then.
bool typed_array_memory(napi_env env, napi_value value, void **data, size_t *bytes) {
  bool is_typed_array = false;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array) return false;
  if (napi_get_buffer_info(env, value, data, bytes) != napi_ok) return false;
  // An empty array may have no memory, but in the ABI NULL means that the operand is absent.
  alignas(64) static char empty[1];
  if (*data == nullptr) *data = empty;
  return true;
}

bool is_aligned(const void *data, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(alignment) == 0;
}

// The memory of a descriptor of at least `count` numbers.
const void *descriptor_memory(Napi::Env env, napi_value value, int64_t count) {
  size_t bytes = 0;
  const void *const data = array_bytes(env, value, &bytes, "descriptor");
  if (bytes / sizeof(double) >= static_cast<uint64_t>(count)) return data;
  throw make_error(env, "ERR_LILY_ARGUMENT", "the descriptor must have " + std::to_string(count) + " numbers");
}

}  // namespace

void throw_not_whole(Napi::Env env, const char *name) {
  throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a whole number");
}

int64_t whole_number(Napi::Env env, double number, int64_t least, int64_t most, const char *name) {
  const int64_t whole = whole_number(env, number, name);
  if (whole >= least && whole <= most) return whole;
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must be from " + std::to_string(least) + " to " + std::to_string(most));
}

void read_numbers(Napi::Env env, napi_value value, int64_t count, double *numbers) {
  const void *const memory = descriptor_memory(env, value, count);
  // Of no numbers either pointer may be null, which memcpy does not allow.
  if (count > 0) memcpy(numbers, memory, static_cast<size_t>(count) * sizeof(double));
}

void check_numbers(Napi::Env env, napi_value value, int64_t count) { descriptor_memory(env, value, count); }

std::vector<napi_value> read_array(Napi::Env env, napi_value value, uint32_t length, const char *name) {
  const Napi::Array array(env, value);
  if (array.Length() != length) {
    throw make_error(env, "ERR_LILY_ARGUMENT",
                     std::string(name) + " must be an array of " + std::to_string(length) + " elements");
  }
  std::vector<napi_value> elements(length);
  for (uint32_t i = 0; i < length; ++i) elements[i] = array.Get(i);
  return elements;
}

void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name) {
  void *data = nullptr;
  size_t bytes = 0;
  const int64_t needed = extent(1, count, count, element_bytes);
  if (typed_array_memory(env, value, &data, &bytes) && needed >= 0 && bytes >= static_cast<uint64_t>(needed) &&
      is_aligned(data, element_bytes)) {
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

void *Operands::memory(napi_value value, int64_t offset, int64_t bytes, int64_t alignment, const char *name) const {
  void *found = nullptr;
  if (backend == lily_cpu_backend()) {
    size_t given = 0;
    char *data = static_cast<char *>(array_bytes(env, value, &given, name));
    const bool fits = bytes >= 0 && offset >= 0 && static_cast<uint64_t>(offset) <= given &&
                      static_cast<uint64_t>(bytes) <= given - static_cast<uint64_t>(offset);
    if (!fits) {
      throw make_error(env, "ERR_LILY_SHAPE",
                       std::string(name) + " has no " + std::to_string(bytes) + " bytes from offset " +
                           std::to_string(offset) + ": it has " + std::to_string(given));
    }
    found = data + offset;
  } else {
    found = device_memory_of(env, device, value, offset, bytes, name);
  }
  if (is_aligned(found, alignment)) return found;
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must begin at a multiple of " + std::to_string(alignment) + " bytes");
}

void *Operands::array(napi_value value, int64_t offset, int64_t count, int64_t element_bytes, const char *name) const {
  return memory(value, offset, extent(1, count, count, element_bytes), element_bytes, name);
}

lily_matrix Operands::matrix(napi_value value, const double *numbers, int64_t rows, int64_t columns,
                             const char *name) const {
  using namespace slot_field;
  const auto whole = [&](Position field) { return whole_number(env, numbers[field], kNames[field]); };
  const int64_t pitch = whole(kPitch);
  const int64_t dtype = whole(kDtype);
  const int64_t element_bytes = dtype >= LILY_FLOAT32 && dtype <= LILY_FLOAT16 ? dtype_bytes(dtype) : 0;
  if (element_bytes == 0) throw make_error(env, "ERR_LILY_DTYPE", std::string(name) + " has an unknown dtype");
  const int64_t bytes = extent(rows, columns, pitch, element_bytes);
  if (bytes < 0 || pitch > kMaxBytes || (pitch < columns && rows > 1)) {
    throw make_error(env, "ERR_LILY_SHAPE",
                     std::string(name) + " cannot have " + std::to_string(rows) + " rows of " +
                         std::to_string(columns) + " elements with pitch " + std::to_string(pitch));
  }
  return {
      .data = memory(value, whole(kByteOffset), bytes, element_bytes, name),
      // The pitch of a single row has no meaning, and may be anything: the address of the next row must not overflow.
      .pitch = std::max(pitch, columns),
      .dtype = static_cast<int32_t>(dtype),
      .accumulate = numbers[kAccumulate] != 0 ? 1 : 0,
  };
}

}  // namespace lily::napi
