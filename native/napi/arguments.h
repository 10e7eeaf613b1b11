// The arguments of a forward or backward call: the descriptor's numbers first, then one operand per slot.
#pragma once

#include <napi.h>

#include <array>
#include <utility>
#include <vector>

#include "lily/backend.h"
#include "napi/operands.h"

namespace lily::napi {

class Arguments {
 public:
  Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count);

  Napi::Env env() const { return info_.Env(); }
  const lily_backend &backend() const { return *operands_.backend; }
  const lily_problem &problem() const { return problem_; }
  lily_stream stream() const { return static_cast<lily_stream>(whole(call_field::kStream)); }
  lily_stream memory_stream() const { return static_cast<lily_stream>(whole(call_field::kMemoryStream)); }

  bool has(int slot) const;

  // rows x columns with the slot's pitch. The slot's dtype must be that of the activations or of the parameters.
  lily_matrix activations(int slot, int64_t rows, int64_t columns) const;
  lily_matrix activations_if_given(int slot, int64_t rows, int64_t columns) const;
  lily_matrix parameter(int slot, int64_t rows, int64_t columns) const;
  // The gradient of a parameter may also be float32.
  lily_matrix gradient_if_given(int slot, int64_t rows, int64_t columns) const;

  // `count` contiguous elements of `element_bytes`; null if the operand is absent.
  void *array_if_given(int slot, int64_t count, int64_t element_bytes) const;
  void *array(int slot, int64_t count, int64_t element_bytes) const;

  // Mask and sequence offsets. Offsets in host memory are checked: they must ascend from 0 to M.
  lily_tokens tokens(int mask_slot, int offsets_slot);

  // The copy of the offsets in host memory that the tokens refer to. It must outlive the call.
  std::vector<int32_t> take_offsets() { return std::move(offsets_); }

 private:
  int64_t whole(call_field::Position field) const {
    return whole_number(info_.Env(), numbers_[field], call_field::kNames[field]);
  }
  int32_t choice(call_field::Position field) const {
    return static_cast<int32_t>(
        whole_number(info_.Env(), numbers_[field], INT32_MIN, INT32_MAX, call_field::kNames[field]));
  }
  const double *slot_numbers(int slot) const {
    return numbers_.data() + call_field::kCount + slot * slot_field::kCount;
  }
  lily_matrix matrix(int slot, int64_t rows, int64_t columns, int32_t dtype, int32_t other_dtype) const;

  const Napi::CallbackInfo &info_;
  const char *const *slot_names_;
  std::array<double, call_field::kCount + backward_slot::kCount * slot_field::kCount> numbers_;
  Operands operands_;
  lily_problem problem_ = {};
  std::vector<int32_t> offsets_;
};

lily_forward read_forward(Arguments &arguments);
lily_backward read_backward(Arguments &arguments);

}  // namespace lily::napi
