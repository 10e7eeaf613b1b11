// What every backend computes of a step of AdamW before it looks at a parameter: in float64, rounded once.
#pragma once

#include "lily/backend.h"

namespace lily {

// The factors of a step that all parameters share, with the names of lily_adamw's formula.
struct AdamWStep {
  float beta1;
  float beta1_rest;  // 1 - beta1
  float beta2;
  float beta2_rest;   // 1 - beta2
  float root_factor;  // 1 / sqrt(1 - beta2^step)
  float eps;
};

// Those of one parameter.
struct AdamWRate {
  float keep;       // 1 - lr weight_decay
  float step_size;  // lr / (1 - beta1^step)
};

AdamWStep adamw_step(const lily_adamw &call);
AdamWRate adamw_rate(const lily_adamw &call, const lily_adamw_parameter &parameter);

}  // namespace lily
