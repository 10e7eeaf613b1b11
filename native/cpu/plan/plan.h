// The plan of a call: its tasks, and the layout of its intermediate arrays in the workspace. Splits whose partial sums
// are added depend on the problem alone. Only cuts that cannot change a result may depend on the number of threads.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"

namespace lily::cpu {

struct ForwardPlan {
  ForwardPass pass;
  const LargeProducts *products;
  float *weights;  // G x E: from the call, or in the workspace
  float *scratch;  // scratch_floats per thread
  int64_t scratch_floats;
  size_t workspace_bytes;
};

struct BackwardPlan {
  BackwardPass pass;
  const LargeProducts *products;
  float *scratch;  // scratch_floats per thread
  int64_t scratch_floats;
  size_t workspace_bytes;
};

struct LinearPlan {
  LinearPass pass;
  const LinearProducts *products;
  bool is_direct;  // the pass is products->direct
  float *scratch;  // scratch_floats per thread
  int64_t scratch_floats;
  size_t workspace_bytes;
  size_t packed_bytes;  // of the packed weight; 0: the call would not use it
};

// If the workspace of the call is null, only the sizes of the plan are valid.
ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels);
BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels);
LinearPlan plan_linear(const lily_linear &call, const Kernels &kernels);
Partition plan_fold(const lily_fold &call, const Kernels &kernels);

}  // namespace lily::cpu
