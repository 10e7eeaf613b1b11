// The arguments of the calls of a frozen linear layer: the descriptor's numbers first, then one operand per slot.
#pragma once

#include <napi.h>

#include <array>
#include <vector>

#include "lily/backend.h"
#include "napi/operands.h"

namespace lily::napi {

class LinearArguments {
 public:
  explicit LinearArguments(const Napi::CallbackInfo &info);

  Napi::Env env() const { return info_.Env(); }
  const lily_backend &backend() const { return *operands_.backend; }
  const lily_linear_problem &problem() const { return problem_; }
  lily_stream memory_stream() const { return static_cast<lily_stream>(whole(linear_field::kMemoryStream)); }
  std::vector<int32_t> take_offsets() { return {}; }

  // The call without its workspace.
  lily_linear call() const;

  // A call that packs the weight, and the memory that it packs to.
  lily_linear pack_call() const;
  void *packed() const;

  size_t packed_bytes() const;

 private:
  int64_t whole(linear_field::Position field) const {
    return whole_number(info_.Env(), numbers_[field], linear_field::kNames[field]);
  }
  int32_t choice(linear_field::Position field) const {
    return static_cast<int32_t>(
        whole_number(info_.Env(), numbers_[field], INT32_MIN, INT32_MAX, linear_field::kNames[field]));
  }
  bool has(int slot) const;
  lily_matrix matrix(int slot, int64_t rows, int64_t columns, int32_t dtype) const;

  const Napi::CallbackInfo &info_;
  std::array<double, linear_field::kCount + linear_slot::kCount * slot_field::kCount> numbers_;
  Operands operands_;
  lily_linear_problem problem_ = {};
};

}  // namespace lily::napi
