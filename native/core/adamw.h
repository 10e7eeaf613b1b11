// The scalar factors of a step of AdamW, shared by the backends. They are computed in float64 and rounded to float32
// once.
#pragma once

#include "lily/backend.h"

namespace lily {

// The factors that all parameters share. The formula at lily_adamw has the symbols.
struct AdamWStep {
  float beta1;
  float beta1_rest;  // 1 - beta1
  float beta2;
  float beta2_rest;   // 1 - beta2
  float root_factor;  // 1 / sqrt(1 - beta2^step)
  float eps;
};

// The factors of one parameter.
struct AdamWRate {
  float keep;       // 1 - lr weight_decay
  float step_size;  // lr / (1 - beta1^step)
};

AdamWStep adamw_step(const lily_adamw &call);
AdamWRate adamw_rate(const lily_adamw &call, const lily_adamw_parameter &parameter);

}  // namespace lily
