// Values of JavaScript: numbers, memory, backends and devices.
//
// A pointer into memory of JavaScript is valid until the next piece of JavaScript runs: a getter can detach or shrink a
// buffer.
#pragma once

#include <napi.h>

#include "binding/reader.h"
#include "lily/backend.h"
#include "napi/errors.h"

namespace lily::napi {

// Converts a double to an integer. Throws for fractions, NaN and magnitudes above 2^53; `name` is part of the error
// text.
int64_t whole_number(Napi::Env env, double number, const char *name);

// The same for a number from `least` to `most`.
int64_t whole_number(Napi::Env env, double number, int64_t least, int64_t most, const char *name);

// A number among the arguments. Throws for other values.
inline double double_argument(const Napi::CallbackInfo &info, size_t index) {
  return info[index].As<Napi::Number>().DoubleValue();
}

// Copies the first `count` numbers of a descriptor: a copy cannot change during the call.
void read_numbers(Napi::Env env, napi_value value, int64_t count, double *numbers);

// The memory of a typed array of at least `count` elements.
void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name);

// The memory of a whole typed array.
void *array_bytes(Napi::Env env, napi_value value, size_t *bytes, const char *name);

// The memory of an operand. The CPU backend takes typed arrays; other backends take memory of the package, or an
// address: `bytes` bytes from its `offset` on must be memory of the device.
binding::Memory operand_memory(Napi::Env env, const lily_backend &backend, int32_t device, napi_value value,
                               int64_t offset, int64_t bytes, const char *name);

// Throws an error of the reader.
void check(Napi::Env env, const binding::Error &error);

// The backend of a number in lib/binding/slots.ts; throws if it is absent.
const lily_backend &available_backend(Napi::Env env, double number);

// The number of a device. A device that does not exist but could is refused by the backend.
int32_t device_of(Napi::Env env, const lily_backend &backend, double number);

// The number of a device that a call uses. Throws if its self-test, which the first use runs, has disabled it.
int32_t usable_device_of(Napi::Env env, const lily_backend &backend, double number);

}  // namespace lily::napi
