// The plan of a call: its tasks, and the layout of its intermediate arrays in the workspace. Splits whose partial sums
// are added depend on the problem alone. Only cuts that cannot change a result may depend on the number of threads.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {

// A step of a plan: `count` tasks that depend on the steps before, not on each other.
template <typename Pass>
struct Step {
  int64_t count;
  void (*run)(const Pass &, int64_t task, float *scratch);
  bool joins;  // the tasks do not depend on the step before either, and run together with its tasks
};

// The steps of a plan, in their order.
template <typename Pass>
class Steps {
 public:
  void add(int64_t count, void (*run)(const Pass &, int64_t task, float *scratch), bool joins = false) {
    if (count > 0) steps_[size_++] = {count, run, joins};
  }
  const Step<Pass> *begin() const { return steps_; }
  const Step<Pass> *end() const { return steps_ + size_; }
  // Moves `step`, which is not the end, behind the steps that run together with it, and returns the number of tasks.
  int64_t skip_joined(const Step<Pass> *&step) const {
    int64_t tasks = step++->count;
    while (step != end() && step->joins) tasks += step++->count;
    return tasks;
  }

 private:
  static constexpr int kMost = 14;  // of backward in blocks with listed rows
  Step<Pass> steps_[kMost];
  int size_ = 0;
};

template <typename Pass>
struct Plan {
  Pass pass;
  Steps<Pass> steps;
  float *scratch;  // scratch_floats per thread
  int64_t scratch_floats;
  size_t workspace_bytes;

  // Runs a task of `step` or, beyond them, of the steps that join it.
  void run(const Step<Pass> *step, int64_t task, int64_t worker) const {
    while (task >= step->count) task -= step++->count;
    step->run(pass, task, scratch + worker * scratch_floats);
  }
};

// Takes the scratch of the threads, the last array of a workspace.
template <typename Pass>
void take_scratch(Plan<Pass> &plan, Workspace &workspace) {
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
}

using ForwardPlan = Plan<ForwardPass>;
using BackwardPlan = Plan<BackwardPass>;

using MatmulPlan = Plan<MatmulPass>;

struct LinearPlan : Plan<LinearPass> {
  const LinearProducts *products;
  size_t packed_bytes;  // of the packed weight; 0: the call would not use it
};

// If the workspace of the call is null, only the sizes of the plan are valid.
ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels);
BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels);
// The same, but arrays are the next ones of `workspace`, and scratch is left to the caller; see rows.h.
ForwardPlan plan_call(const lily_forward &call, const Kernels &kernels, Workspace &workspace);
BackwardPlan plan_call(const lily_backward &call, const Kernels &kernels, Workspace &workspace);
LinearPlan plan_linear(const lily_linear &call, const Kernels &kernels);
// One product of a batch as the product of a linear layer.
lily_linear_problem linear_problem(const lily_matmul_problem &problem);
MatmulPlan plan_matmul(const lily_matmul &call, const Kernels &kernels);
Plan<AttentionPass> plan_attention(const lily_cpu_attention &call, const Kernels &kernels);
Plan<AttentionBackwardPass> plan_attention(const lily_cpu_attention_backward &call, const Kernels &kernels);
Partition plan_fold(const lily_fold &call, const Kernels &kernels);

}  // namespace lily::cpu
