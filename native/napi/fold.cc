// The fold of deferred gradients of b: reads the arguments and calls the ABI.
#include <vector>

#include "core/problem.h"
#include "napi/exports.h"
#include "napi/operands.h"

namespace lily::napi {
namespace {

class FoldArguments {
 public:
  explicit FoldArguments(const Napi::CallbackInfo &info) : env_(info.Env()), db_(info[1]), operands_{env_, nullptr, 0} {
    const uint32_t layer_count = info[2].As<Napi::Array>().Length();
    const int64_t number_count = kLayers + int64_t{layer_count} * fold_layer_field::kCount;
    check_numbers(env_, info[0], number_count);  // bounds the number of layers
    partials_ = read_array(env_, info[2], layer_count, "partials");
    weights_ = read_array(env_, info[3], layer_count, "weights");
    numbers_.resize(static_cast<size_t>(number_count));
    read_numbers(env_, info[0], number_count, numbers_.data());
    operands_.backend = &available_backend(env_, numbers_[fold_field::kBackend]);
    operands_.device = usable_device_of(env_, *operands_.backend, numbers_[fold_field::kDevice]);
    d_out_ = whole(fold_field::kDOut);
    rank_ = whole(fold_field::kRank);
    experts_ = whole(fold_field::kExperts);
    if (const char *wrong = stack_error(rank_, experts_, d_out_)) throw make_error(env_, "ERR_LILY_ARGUMENT", wrong);
  }

  const lily_backend &backend() const { return *operands_.backend; }

  lily_fold call() const {
    lily_fold call = {};
    call.rank = rank_;
    call.experts = experts_;
    call.d_out = d_out_;
    call.db = operands_.matrix(db_, numbers_.data() + fold_field::kCount, experts_ * rank_, d_out_, "db");
    call.device = operands_.device;
    call.stream = static_cast<lily_stream>(whole(fold_field::kStream));
    return call;
  }

  std::vector<lily_deferred> layers() const {
    std::vector<lily_deferred> layers;
    layers.reserve(partials_.size());
    for (size_t i = 0; i < partials_.size(); ++i) layers.push_back(layer(i));
    return layers;
  }

 private:
  // The numbers of the layers follow those of the call and of db.
  static constexpr int64_t kLayers = fold_field::kCount + slot_field::kCount;

  lily_deferred layer(size_t index) const {
    using namespace fold_layer_field;
    const double *const field = numbers_.data() + kLayers + index * kCount;
    const auto integer = [&](Position i) { return whole_number(env_, field[i], kNames[i]); };
    const napi_value partial = partials_[index];
    const Napi::Value weight(env_, weights_[index]);
    const int64_t count = integer(kPartials);
    if (count < 0 || count > kMaxExperts || (weight.IsNull() && count != experts_)) {
      throw make_error(env_, "ERR_LILY_ARGUMENT", "the number of partials does not match the weights and experts");
    }
    lily_deferred layer = {};
    layer.partial = static_cast<const float *>(
        operands_.array(partial, 0, count * rank_ * d_out_, sizeof(float), "a deferred gradient"));
    if (!weight.IsNull()) {
      layer.weights = static_cast<const float *>(operands_.array(weight, integer(kWeightsOffset), count * experts_,
                                                                 sizeof(float), "weights of a deferred gradient"));
    }
    layer.groups = count;
    return layer;
  }

  int64_t whole(fold_field::Position field) const {
    return whole_number(env_, numbers_[field], fold_field::kNames[field]);
  }

  const Napi::Env env_;
  const Napi::Value db_;
  std::vector<napi_value> partials_, weights_;
  std::vector<double> numbers_;
  Operands operands_;
  int64_t d_out_ = 0, rank_ = 0, experts_ = 0;
};

}  // namespace

void fold(const Napi::CallbackInfo &info) {
  const FoldArguments arguments(info);
  const std::vector<lily_deferred> layers = arguments.layers();
  lily_fold call = arguments.call();
  call.layers = layers.data();
  call.layer_count = static_cast<int64_t>(layers.size());
  check(info.Env(), arguments.backend(), arguments.backend().fold(&call));
}

}  // namespace lily::napi
