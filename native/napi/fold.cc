#include <vector>

#include "core/problem.h"
#include "napi/exports.h"
#include "napi/operands.h"

namespace lily::napi {

void fold(const Napi::CallbackInfo &info) {
  static constexpr const char *kSlotNames[] = {"db"};
  const Arguments arguments(info, kSlotNames, 1);
  const lily_problem &problem = arguments.problem();
  const auto partials = info[3].As<Napi::Array>(), weights = info[4].As<Napi::Array>();
  const int64_t layer_count = partials.Length();
  // Two numbers for each layer: the number of its partials, and where its weights begin.
  const auto *numbers =
      static_cast<const double *>(array_memory(info.Env(), info[2], 2 * layer_count, sizeof(double), "layers"));
  std::vector<lily_deferred> layers;
  for (int64_t i = 0; i < layer_count; ++i) {
    const Napi::Value partial = partials[static_cast<uint32_t>(i)], weight = weights[static_cast<uint32_t>(i)];
    const int64_t count = static_cast<int64_t>(numbers[2 * i]);
    if (count < 0 || count > kMaxExperts || (weight.IsNull() && count != problem.experts)) {
      throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "groups do not match the deferred gradients");
    }
    lily_deferred layer = {};
    layer.partial = static_cast<const float *>(
        arguments.array_of(partial, 0, count * problem.rank * problem.d_out, sizeof(float), "a deferred gradient"));
    if (!weight.IsNull()) {
      layer.weights = static_cast<const float *>(arguments.array_of(weight, static_cast<int64_t>(numbers[2 * i + 1]),
                                                                    count * problem.experts, sizeof(float),
                                                                    "weights of a deferred gradient"));
    }
    layer.groups = count;
    layers.push_back(layer);
  }
  lily_fold call = {};
  call.rank = problem.rank;
  call.experts = problem.experts;
  call.d_out = problem.d_out;
  call.layers = layers.data();
  call.layer_count = layer_count;
  call.db = arguments.matrix(0, problem.experts * problem.rank, problem.d_out);
  call.device = problem.device;
  call.stream = arguments.stream();
  check(info.Env(), arguments.backend(), arguments.backend().fold(&call));
}

}  // namespace lily::napi
