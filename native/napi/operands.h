// Operands of a call: from JavaScript values to memory and matrices, with every byte length checked. A mistake in lib/
// becomes an exception here and never an access out of bounds.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/descriptor.h"
#include "napi/errors.h"

namespace lily::napi {

// Converts a double to an integer. Throws for NaN and for magnitudes above 2^53; `name` is part of the error text.
int64_t whole_number(Napi::Env env, double number, const char *name);

// The memory of a typed array of at least `count` elements.
void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name);

// The backend of a number in `constants.backend`; throws if it is absent.
const lily_backend &available_backend(Napi::Env env, double number);

// Reads operands that must be on one device. `name` is part of the error texts.
struct Operands {
  // `bytes` bytes from `offset` on. The CPU backend takes typed arrays. Other backends take memory of the package or an
  // address, which lib/ has checked with checkPointer.
  void *memory(napi_value value, int64_t offset, int64_t bytes, const char *name) const;

  // `count` contiguous elements from the byte `offset` on.
  void *array(napi_value value, int64_t offset, int64_t count, int64_t element_bytes, const char *name) const;

  // rows x columns elements; `numbers` are those of slotFields.
  lily_matrix matrix(napi_value value, const double *numbers, int64_t rows, int64_t columns, const char *name) const;

  Napi::Env env;
  const lily_backend *backend;
  int32_t device;
};

}  // namespace lily::napi
