#include "core/adamw.h"

#include <math.h>

namespace lily {

AdamWStep adamw_step(const lily_adamw &call) {
  const double correction = 1.0 - pow(call.beta2, static_cast<double>(call.step));
  return {
      .beta1 = static_cast<float>(call.beta1),
      .beta1_rest = static_cast<float>(1.0 - call.beta1),
      .beta2 = static_cast<float>(call.beta2),
      .beta2_rest = static_cast<float>(1.0 - call.beta2),
      .root_factor = static_cast<float>(1.0 / sqrt(correction)),
      .eps = static_cast<float>(call.eps),
  };
}

AdamWRate adamw_rate(const lily_adamw &call, const lily_adamw_parameter &parameter) {
  const double correction = 1.0 - pow(call.beta1, static_cast<double>(call.step));
  return {
      .keep = static_cast<float>(1.0 - parameter.lr * parameter.weight_decay),
      .step_size = static_cast<float>(parameter.lr / correction),
  };
}

}  // namespace lily
