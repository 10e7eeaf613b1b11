// Runs a step of AdamW on the thread pool. A task processes one split of the elements of one parameter.
#include "cpu/optimiser.h"

#include <math.h>

#include <algorithm>

#include "core/workspace.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// Elements per split. The four arrays of a split fit in the L2 cache of a core (256 KiB in float32), and a task takes
// much longer than its dispatch. The sum of squares has one partial sum per split, so its order of additions depends on
// this number and not on the number of threads.
constexpr int64_t kSplitElements = 16384;

struct Split {
  const lily_adamw_parameter &parameter;
  int64_t begin, end;
};

struct Plan {
  int64_t *first_splits;  // [parameters + 1]
  double *split_sums;     // [splits]
  size_t workspace_bytes;
};

int64_t split_count(const lily_adamw_parameter &parameter) {
  return (parameter.count + kSplitElements - 1) / kSplitElements;
}

Plan plan(const lily_adamw &call) {
  int64_t splits = 0;
  for (int64_t i = 0; i < call.parameter_count; ++i) splits += split_count(call.parameters[i]);
  Workspace workspace(call.workspace);
  Plan plan = {};
  plan.first_splits = workspace.take<int64_t>(call.parameter_count + 1);
  plan.split_sums = workspace.take<double>(splits);
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Split split_of(const lily_adamw &call, const int64_t *first_splits, int64_t task) {
  const int64_t *const next = std::upper_bound(first_splits, first_splits + call.parameter_count + 1, task);
  const int64_t index = next - first_splits - 1;
  const lily_adamw_parameter &parameter = call.parameters[index];
  const int64_t begin = (task - first_splits[index]) * kSplitElements;
  return {parameter, begin, std::min(begin + kSplitElements, parameter.count)};
}

}  // namespace

size_t adamw_workspace(const lily_adamw &call) { return plan(call).workspace_bytes; }

void adamw(lily_adamw call, const Kernels &kernels) {
  const Plan plan = cpu::plan(call);
  int64_t splits = 0;
  for (int64_t i = 0; i < call.parameter_count; ++i) {
    plan.first_splits[i] = splits;
    splits += split_count(call.parameters[i]);
  }
  plan.first_splits[call.parameter_count] = splits;

  float clip = 1.0f;
  if (call.norm != nullptr || call.skipped != nullptr) {
    parallel_for(splits, [&](int64_t task, int64_t) {
      const Split split = split_of(call, plan.first_splits, task);
      plan.split_sums[task] =
          kernels.sum_of_squares(split.parameter.grad, split.parameter.grad_dtype, split.begin, split.end);
    });
    double sum = 0.0;
    for (int64_t task = 0; task < splits; ++task) sum += plan.split_sums[task];
    const float norm = static_cast<float>(sqrt(sum));
    if (call.norm != nullptr) {
      *call.norm = norm;
      clip = call.max_norm / (norm + 1e-6f);
      if (clip > 1.0f) clip = 1.0f;  // a NaN stays a NaN
    }
    if (call.skipped != nullptr) {
      // The sum of finite squares is finite in float64.
      if (!isfinite(sum)) {
        *call.skipped += 1.0f;
        return;
      }
      // The memory of a caller may hold any number.
      const float skipped = *call.skipped;
      if (skipped >= 0 && skipped < static_cast<float>(call.step)) call.step -= static_cast<int64_t>(skipped);
    }
  }

  const AdamWStep step = adamw_step(call);
  parallel_for(splits, [&](int64_t task, int64_t) {
    const Split split = split_of(call, plan.first_splits, task);
    const AdamWUpdate update = {&split.parameter, step, adamw_rate(call, split.parameter), clip};
    kernels.adamw(update, split.begin, split.end);
  });
}

}  // namespace lily::cpu
