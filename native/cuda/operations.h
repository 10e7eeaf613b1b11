// The operations of the C ABI on a CUDA device: what backend.cc calls and the kernels implement.
//
// All pointers in a call are device pointers, but lily_fold.layers and lily_adamw.parameters, which are host arrays of
// device pointers. The current device is the call's and its stream is a handle of CUDA's own when they are called.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "lily/backend.h"

namespace lily::cuda {

lily_status forward_workspace(const lily_problem *problem, size_t *bytes);
lily_status forward(const lily_forward *call);
lily_status backward_workspace(const lily_problem *problem, size_t *bytes);
lily_status backward(const lily_backward *call);
lily_status fold(const lily_fold *call);
lily_status adamw_workspace(const lily_adamw *call, size_t *bytes);
lily_status adamw(const lily_adamw *call);

// The ABI's; it allocates, and waits for the device.
lily_status measure_roof(const Device &device, int32_t roof, size_t bytes, double *rate);

// Sets the attributes of the kernels, so that no launch has to: called once per device, before any launch on it.
lily_status prepare(const Device &device);

}  // namespace lily::cuda
