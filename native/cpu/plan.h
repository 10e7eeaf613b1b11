// How a call is cut into tasks and where its intermediate arrays lie in the workspace. The cuts on which a sum's order
// depends follow from the problem alone; only those that no result can depend on look at the number of threads.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"

namespace lily::cpu {

struct ForwardPlan {
  ForwardPass pass;
  float *weights;  // G x E: the caller's, or room of the workspace's
  float *scratch;  // per thread
  int64_t scratch_floats;
  size_t workspace_bytes;
};

struct BackwardPlan {
  BackwardPass pass;
  float *scratch;
  int64_t scratch_floats;
  size_t workspace_bytes;
};

// With a null workspace only the sizes mean anything.
ForwardPlan plan_forward(const lily_forward &call, const Kernels &kernels);
BackwardPlan plan_backward(const lily_backward &call, const Kernels &kernels);
Slabs plan_fold(const lily_fold &call, const Kernels &kernels);

}  // namespace lily::cpu
