#include "napi/linear_arguments.h"

#include <string>

#include "core/problem.h"

namespace lily::napi {

LinearArguments::LinearArguments(const Napi::CallbackInfo &info)
    : info_(info), numbers_{}, operands_{info.Env(), nullptr, 0} {
  using namespace linear_field;
  read_numbers(info.Env(), info[0], static_cast<int64_t>(numbers_.size()), numbers_.data());
  operands_.backend = &available_backend(info.Env(), numbers_[kBackend]);
  operands_.device = usable_device_of(info.Env(), *operands_.backend, numbers_[kDevice]);
  problem_.tokens = whole(kTokens);
  problem_.d_in = whole(kDIn);
  problem_.d_out = whole(kDOut);
  problem_.transposed = choice(kTransposed);
  problem_.precision = choice(kPrecision);
  problem_.activation_dtype = choice(kActivationDtype);
  problem_.parameter_dtype = choice(kParameterDtype);
  problem_.device = operands_.device;
  if (const char *wrong = problem_error(problem_)) throw make_error(info.Env(), "ERR_LILY_ARGUMENT", wrong);
}

bool LinearArguments::has(int slot) const {
  const napi_valuetype type = info_[slot + 1].Type();
  return type != napi_null && type != napi_undefined;
}

lily_matrix LinearArguments::matrix(int slot, int64_t rows, int64_t columns, int32_t dtype) const {
  const double *const numbers = numbers_.data() + linear_field::kCount + slot * slot_field::kCount;
  const lily_matrix matrix = operands_.matrix(info_[slot + 1], numbers, rows, columns, linear_slot::kNames[slot]);
  if (matrix.dtype == dtype) return matrix;
  throw make_error(info_.Env(), "ERR_LILY_DTYPE",
                   std::string(linear_slot::kNames[slot]) + " has another dtype than the call gives its operands");
}

lily_linear LinearArguments::pack_call() const {
  lily_linear call = {};
  call.problem = problem_;
  call.stream = static_cast<lily_stream>(whole(linear_field::kStream));
  call.weight = matrix(linear_slot::kWeight, problem_.d_out, problem_.d_in, problem_.parameter_dtype);
  return call;
}

lily_linear LinearArguments::call() const {
  using namespace linear_slot;
  const bool transposed = problem_.transposed != 0;
  const int64_t depth = transposed ? problem_.d_out : problem_.d_in;
  const int64_t columns = transposed ? problem_.d_in : problem_.d_out;
  lily_linear call = pack_call();
  if (has(kPacked)) call.packed = packed();
  call.x = matrix(kX, problem_.tokens, depth, problem_.activation_dtype);
  if (has(kBias)) {
    if (transposed) throw make_error(env(), "ERR_LILY_ARGUMENT", "bias is for the forward direction");
    call.bias = matrix(kBias, 1, problem_.d_out, problem_.parameter_dtype);
  }
  call.y = matrix(kY, problem_.tokens, columns, problem_.activation_dtype);
  return call;
}

size_t LinearArguments::packed_bytes() const {
  pack_call();  // the size is that of a weight in memory, so it does not overflow
  size_t bytes = 0;
  check(env(), backend(), backend().linear_packed_bytes(&problem_, &bytes));
  return bytes;
}

void *LinearArguments::packed() const {
  const int slot = linear_slot::kPacked;
  const double offset =
      numbers_[static_cast<size_t>(linear_field::kCount + slot * slot_field::kCount + slot_field::kByteOffset)];
  return operands_.memory(info_[static_cast<size_t>(slot) + 1], whole_number(env(), offset, "byteOffset"),
                          static_cast<int64_t>(packed_bytes()), sizeof(float), linear_slot::kNames[slot]);
}

}  // namespace lily::napi
