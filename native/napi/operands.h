// From JavaScript values to the ABI's structs, with every byte length checked against the problem: whatever is wrong
// above the binding becomes an exception here, never a wild access.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/descriptor.h"
#include "napi/errors.h"

namespace lily::napi {

// The arguments of one call: the descriptor first, then one operand per slot.
class Arguments {
 public:
  Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count);

  const lily_backend &backend() const { return *backend_; }
  const lily_problem &problem() const { return problem_; }
  lily_stream stream() const { return static_cast<lily_stream>(whole(field(kStream), "stream")); }
  lily_stream home() const { return static_cast<lily_stream>(whole(field(kHome), "home")); }

  bool has(int slot) const;

  // rows x columns with the slot's pitch and dtype.
  lily_matrix matrix(int slot, int64_t rows, int64_t columns) const;
  lily_matrix matrix_if_given(int slot, int64_t rows, int64_t columns) const;

  // `count` contiguous elements of `element_bytes`; null where the operand is absent.
  void *array_if_given(int slot, int64_t count, int64_t element_bytes) const;
  void *array(int slot, int64_t count, int64_t element_bytes) const;

  // The same of a value that has no slot of its own.
  void *array_of(napi_value value, int64_t offset, int64_t count, int64_t element_bytes, const char *name) const;

  // Mask and sequence offsets; offsets in host memory are checked to ascend from 0 to M.
  lily_tokens tokens(int mask_slot, int offsets_slot) const;

 private:
  double field(int index) const { return numbers_[index]; }
  double slot_field(int slot, SlotField index) const { return numbers_[kFieldCount + slot * kSlotFieldCount + index]; }
  int64_t whole(double number, const char *name) const;
  void *checked(int slot, int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) const;

  const Napi::CallbackInfo &info_;
  const char *const *slot_names_;
  const double *numbers_;
  const lily_backend *backend_;
  lily_problem problem_;
};

// `bytes` bytes from `offset` on of a typed array (of the CPU backend), or of memory of a device: the package's own, or
// an address, which lib/ has asked the device about. `name` is for the error.
void *memory_of(Napi::Env env, const lily_backend &backend, int32_t device, napi_value value, int64_t offset,
                int64_t bytes, const char *name);

// A number that an int64 holds, and a double exactly.
int64_t whole_number(Napi::Env env, double number, const char *name);

// A typed array of at least `count` elements.
void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name);

lily_forward read_forward(const Arguments &arguments);
lily_backward read_backward(const Arguments &arguments);

}  // namespace lily::napi
