#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"

namespace lily::cpu {

Partition plan_fold(const lily_fold &call, const Kernels &kernels) {
  return partition(call.d_out, target_tasks(), kernels.panel);
}

}  // namespace lily::cpu
