// Operands of a call: from JavaScript values to memory and matrices, with every byte length, alignment and type
// checked. A mistake in lib/ becomes an exception here and never an access out of bounds.
//
// A pointer into memory of JavaScript is valid until the next piece of JavaScript runs: a getter can detach or shrink a
// buffer. A call therefore reads its arrays and objects first, and takes pointers afterwards.
#pragma once

#include <napi.h>

#include <vector>

#include "lily/backend.h"
#include "napi/descriptor.h"
#include "napi/errors.h"

namespace lily::napi {

// No operand has more bytes: more than the address space of any processor. Products of sizes that pass this limit fit
// into an int64.
constexpr int64_t kMaxBytes = int64_t{1} << 48;

[[noreturn]] void throw_not_whole(Napi::Env env, const char *name);

// Converts a double to an integer. Throws for fractions, NaN and magnitudes above 2^53; `name` is part of the error
// text. A call has about fifty such numbers.
inline int64_t whole_number(Napi::Env env, double number, const char *name) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53
  if (number >= -kLimit && number <= kLimit) {
    const auto whole = static_cast<int64_t>(number);
    if (static_cast<double>(whole) == number) return whole;
  }
  throw_not_whole(env, name);
}

// The same for a number from `least` to `most`.
int64_t whole_number(Napi::Env env, double number, int64_t least, int64_t most, const char *name);

// A number among the arguments. Throws for other values.
inline double double_argument(const Napi::CallbackInfo &info, size_t index) {
  return info[index].As<Napi::Number>().DoubleValue();
}

// Copies the first `count` numbers of a descriptor: a copy cannot change during the call.
void read_numbers(Napi::Env env, napi_value value, int64_t count, double *numbers);
// Throws if read_numbers would.
void check_numbers(Napi::Env env, napi_value value, int64_t count);

// Reads the elements of an array, which runs the getters of the array. Throws unless the value is an array of `length`
// elements.
std::vector<napi_value> read_array(Napi::Env env, napi_value value, uint32_t length, const char *name);

// The memory of a typed array of at least `count` elements.
void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name);

// The memory of a whole typed array.
void *array_bytes(Napi::Env env, napi_value value, size_t *bytes, const char *name);

// The backend of a number in `constants.backend`; throws if it is absent.
const lily_backend &available_backend(Napi::Env env, double number);

// The number of a device. A device that does not exist but could is refused by the backend.
int32_t device_of(Napi::Env env, const lily_backend &backend, double number);

// The number of a device that a call uses. Throws if its self-test, which the first use runs, has disabled it.
int32_t usable_device_of(Napi::Env env, const lily_backend &backend, double number);

// Reads operands that must be on one device. `name` is part of the error texts.
struct Operands {
  // `bytes` bytes from `offset` on, at an address that is a multiple of `alignment`. The CPU backend takes typed
  // arrays. Other backends take memory of the package or an address.
  void *memory(napi_value value, int64_t offset, int64_t bytes, int64_t alignment, const char *name) const;

  // `count` contiguous elements from the byte `offset` on.
  void *array(napi_value value, int64_t offset, int64_t count, int64_t element_bytes, const char *name) const;

  // rows x columns elements; `numbers` are those of slotFields.
  lily_matrix matrix(napi_value value, const double *numbers, int64_t rows, int64_t columns, const char *name) const;

  Napi::Env env;
  const lily_backend *backend;
  int32_t device;
};

}  // namespace lily::napi
