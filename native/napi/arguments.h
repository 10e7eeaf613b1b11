// The arguments of a forward or backward call: the descriptor's numbers first, then one operand per slot.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/operands.h"

namespace lily::napi {

class Arguments {
 public:
  Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count);

  const lily_backend &backend() const { return *operands_.backend; }
  const lily_problem &problem() const { return problem_; }
  lily_stream stream() const { return static_cast<lily_stream>(whole(call_field::kStream)); }
  lily_stream memory_stream() const { return static_cast<lily_stream>(whole(call_field::kMemoryStream)); }

  bool has(int slot) const;

  // rows x columns with the slot's pitch and dtype.
  lily_matrix matrix(int slot, int64_t rows, int64_t columns) const;
  lily_matrix matrix_if_given(int slot, int64_t rows, int64_t columns) const;

  // `count` contiguous elements of `element_bytes`; null if the operand is absent.
  void *array_if_given(int slot, int64_t count, int64_t element_bytes) const;
  void *array(int slot, int64_t count, int64_t element_bytes) const;

  // Mask and sequence offsets. Offsets in host memory are checked: they must ascend from 0 to M.
  lily_tokens tokens(int mask_slot, int offsets_slot) const;

 private:
  int64_t whole(call_field::Position field) const {
    return whole_number(info_.Env(), numbers_[field], call_field::kNames[field]);
  }
  const double *slot_numbers(int slot) const { return numbers_ + call_field::kCount + slot * slot_field::kCount; }

  const Napi::CallbackInfo &info_;
  const char *const *slot_names_;
  const double *numbers_;
  Operands operands_;
  lily_problem problem_ = {};
};

lily_forward read_forward(const Arguments &arguments);
lily_backward read_backward(const Arguments &arguments);

}  // namespace lily::napi
