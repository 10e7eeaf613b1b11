// A step of AdamW: reads the arguments, takes a workspace from the pool and calls the ABI.
#include <vector>

#include "core/caching_pool.h"
#include "core/problem.h"
#include "napi/exports.h"
#include "napi/operands.h"

namespace lily::napi {
namespace {

// The four arrays of a parameter, in the order of the arguments.
enum Array { kValue, kGrad, kExpAvg, kExpAvgSq, kArrayCount };

class AdamWArguments {
 public:
  explicit AdamWArguments(const Napi::CallbackInfo &info)
      : env_(info.Env()), norm_(info[1]), skipped_(info[2]), operands_{env_, nullptr, 0} {
    const uint32_t array_count = info[3].As<Napi::Array>().Length();
    count_ = array_count / kArrayCount;
    if (array_count % kArrayCount != 0) {
      throw make_error(env_, "ERR_LILY_ARGUMENT", "arrays must have four arrays for each parameter");
    }
    const int64_t number_count = adamw_field::kCount + int64_t{count_} * adamw_parameter_field::kCount;
    check_numbers(env_, info[0], number_count);  // bounds the number of arrays
    arrays_ = read_array(env_, info[3], array_count, "arrays");
    numbers_.resize(static_cast<size_t>(number_count));
    read_numbers(env_, info[0], number_count, numbers_.data());
    operands_.backend = &available_backend(env_, numbers_[adamw_field::kBackend]);
    operands_.device = usable_device_of(env_, *operands_.backend, numbers_[adamw_field::kDevice]);
  }

  const lily_backend &backend() const { return *operands_.backend; }
  lily_stream memory_stream() const { return static_cast<lily_stream>(whole(adamw_field::kMemoryStream)); }

  lily_adamw call() const {
    lily_adamw call = {};
    call.beta1 = numbers_[adamw_field::kBeta1];
    call.beta2 = numbers_[adamw_field::kBeta2];
    call.eps = numbers_[adamw_field::kEps];
    call.step = whole_number(env_, numbers_[adamw_field::kStep], 1, kMaxStep, "step");
    call.max_norm = static_cast<float>(numbers_[adamw_field::kMaxNorm]);
    call.norm = optional_number(norm_, "norm");
    call.skipped = optional_number(skipped_, "skipped");
    call.device = operands_.device;
    call.stream = static_cast<lily_stream>(whole(adamw_field::kStream));
    return call;
  }

  std::vector<lily_adamw_parameter> parameters() const {
    std::vector<lily_adamw_parameter> parameters;
    parameters.reserve(count_);
    for (size_t i = 0; i < count_; ++i) parameters.push_back(parameter(i));
    return parameters;
  }

 private:
  static constexpr int64_t kMaxStep = int64_t{1} << 53;  // the largest number of a descriptor

  lily_adamw_parameter parameter(size_t index) const {
    using namespace adamw_parameter_field;
    const double *const field = numbers_.data() + adamw_field::kCount + index * kCount;
    const auto integer = [&](Position i) { return whole_number(env_, field[i], kNames[i]); };
    const int64_t count = integer(kElements);
    const auto dtype = [&](Position i) {
      const int64_t value = integer(i);
      if (value >= LILY_FLOAT32 && value <= LILY_FLOAT16) return static_cast<int32_t>(value);
      throw make_error(env_, "ERR_LILY_DTYPE", "unknown dtype");
    };
    const auto array = [&](Array array, int64_t offset, int32_t type, const char *name) {
      return operands_.array(arrays_[index * kArrayCount + array], offset, count, dtype_bytes(type), name);
    };
    lily_adamw_parameter parameter = {};
    parameter.value_dtype = dtype(kValueDtype);
    parameter.grad_dtype = dtype(kGradDtype);
    if (parameter.grad_dtype != parameter.value_dtype && parameter.grad_dtype != LILY_FLOAT32) {
      throw make_error(env_, "ERR_LILY_DTYPE", "a gradient has its value's dtype or float32");
    }
    parameter.value = array(kValue, integer(kValueOffset), parameter.value_dtype, "value");
    parameter.grad = array(kGrad, integer(kGradOffset), parameter.grad_dtype, "grad");
    parameter.exp_avg = static_cast<float *>(array(kExpAvg, 0, LILY_FLOAT32, "exp_avg"));
    parameter.exp_avg_sq = static_cast<float *>(array(kExpAvgSq, 0, LILY_FLOAT32, "exp_avg_sq"));
    parameter.count = count;
    parameter.lr = field[kLr];
    parameter.weight_decay = field[kWeightDecay];
    return parameter;
  }

  // An array of one number; null if it is absent.
  float *optional_number(const Napi::Value &value, const char *name) const {
    if (value.IsNull() || value.IsUndefined()) return nullptr;
    return static_cast<float *>(operands_.array(value, 0, 1, sizeof(float), name));
  }

  int64_t whole(adamw_field::Position field) const {
    return whole_number(env_, numbers_[field], adamw_field::kNames[field]);
  }

  const Napi::Env env_;
  const Napi::Value norm_;
  const Napi::Value skipped_;
  uint32_t count_;  // of parameters
  std::vector<napi_value> arrays_;
  std::vector<double> numbers_;
  Operands operands_;
};

}  // namespace

void adamw(const Napi::CallbackInfo &info) {
  const AdamWArguments arguments(info);
  const lily_backend &backend = arguments.backend();
  const std::vector<lily_adamw_parameter> parameters = arguments.parameters();
  lily_adamw call = arguments.call();
  call.parameters = parameters.data();
  call.parameter_count = static_cast<int64_t>(parameters.size());
  size_t bytes = 0;
  check(info.Env(), backend, backend.adamw_workspace(&call, &bytes));
  const PooledBlock workspace(caching_pool(backend, call.device), bytes, arguments.memory_stream());
  if (workspace.data() == nullptr) throw out_of_memory(info.Env(), backend, "a workspace", bytes);
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  check(info.Env(), backend, backend.adamw(&call));
}

}  // namespace lily::napi
