// From JavaScript values to the ABI's structs, with every byte length checked against the problem: whatever is wrong
// above the binding becomes an exception here, never a wild access.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/descriptor.h"

namespace lily::napi {

// A JavaScript Error with a `code`; thrown by everything below.
Napi::Error make_error(Napi::Env env, const char *code, const std::string &message);
Napi::Error make_error(Napi::Env env, const lily_backend &backend, lily_status status);

// The arguments of one call: the descriptor first, then one operand per slot.
class Arguments {
 public:
  Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count);

  const lily_backend &backend() const { return *backend_; }
  const lily_problem &problem() const { return problem_; }
  lily_stream stream() const { return static_cast<lily_stream>(whole(field(kStream), "stream")); }

  bool has(int slot) const;

  // rows x columns with the slot's pitch and dtype.
  lily_matrix matrix(int slot, int64_t rows, int64_t columns) const;
  lily_matrix matrix_if_given(int slot, int64_t rows, int64_t columns) const;

  // `count` contiguous elements of `element_bytes`; null where the operand is absent.
  void *array_if_given(int slot, int64_t count, int64_t element_bytes) const;
  void *array(int slot, int64_t count, int64_t element_bytes) const;

  // Mask and sequence offsets; offsets in host memory are checked to ascend from 0 to M.
  lily_tokens tokens(int mask_slot, int offsets_slot) const;

 private:
  struct Memory {
    char *data;
    size_t bytes;
  };

  double field(int index) const { return numbers_[index]; }
  double slot_field(int slot, SlotField index) const { return numbers_[kFieldCount + slot * kSlotFieldCount + index]; }
  int64_t whole(double number, const char *name) const;
  Memory memory(int slot) const;
  void *checked(int slot, int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) const;

  const Napi::CallbackInfo &info_;
  const char *const *slot_names_;
  const double *numbers_;
  const lily_backend *backend_;
  lily_problem problem_;
};

// Memory behind a JavaScript value; `name` is for the error.
void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name);

lily_forward read_forward(const Arguments &arguments);
lily_backward read_backward(const Arguments &arguments);

// By its number in `constants.backend`; null: this build or this machine does not have it.
const lily_backend *backend_by_number(double number);

}  // namespace lily::napi
