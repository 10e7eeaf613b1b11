// The operations of the C ABI on a CUDA device: called by backend.cc, implemented by the launches.
//
// All pointers in a call are device pointers, except lily_fold.layers and lily_adamw.parameters, which are host arrays
// of device pointers. The caller makes the call's device the current one, and its stream must be a CUDA stream handle.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "lily/backend.h"

namespace lily::cuda {

// The virtual architecture whose code a device executes: a GPU may run the code of an earlier one. Requires the
// device's context; 0 if there is no code for the device.
int executed_architecture(int32_t device);

// From now on executed_architecture is kHopperWithoutWgmma. Returns false if it is not kHopperArchitecture.
bool leave_wgmma(int32_t device);
bool has_left_wgmma(int32_t device);

// The problem must be valid, and `device` must be its device. The first three return the size of a workspace that is
// enough for every call of the problem.
size_t forward_workspace(const lily_problem &problem, const Device &device);
size_t backward_workspace(const lily_problem &problem, const Device &device);
size_t linear_workspace(const lily_linear_problem &problem, const Device &device);
lily_status forward(const lily_forward &call, const Device &device);
lily_status backward(const lily_backward &call, const Device &device);
// Workspace of lists: the calls and their operands are those of the next call.
size_t forward_rows_workspace(const lily_forward_rows &list, const Device &device);
size_t backward_rows_workspace(const lily_backward_rows &list, const Device &device);
lily_status forward_rows(const lily_forward_rows &list, const Device &device);
lily_status backward_rows(const lily_backward_rows &list, const Device &device);
lily_status linear(const lily_linear &call, const Device &device);
// Returns LILY_ERROR_UNAVAILABLE, and has enqueued nothing, if cuBLASLt is not installed or refuses the product.
lily_status linear_by_cublaslt(const lily_linear &call, const Device &device);
lily_status fold(const lily_fold &call, const Device &device);
lily_status draw(const lily_draw &call, const Device &device);
lily_status adamw_workspace(const lily_adamw *call, size_t *bytes);
lily_status adamw(const lily_adamw &call, const Device &device);

// Loads the kernels of all these operations into the context of the device: a stream capture must not, because that may
// synchronise.
lily_status load_kernels(const Device &device);

// As in the ABI. Allocates memory and synchronises with the device.
lily_status measure_roof(const Device &device, int32_t roof, size_t bytes, double *rate);

}  // namespace lily::cuda
