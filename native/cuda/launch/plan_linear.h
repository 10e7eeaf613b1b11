// The choice between the kernel and cuBLASLt for a frozen linear layer. Host code that does not use CUDA.
#pragma once

#include "cuda/device.h"
#include "lily/backend.h"

namespace lily::cuda {

// Whether a product is faster by cuBLASLt, if that is installed and accepts the operands: native/cuda/README.md has the
// rule.
bool suits_cublaslt(const lily_linear_problem &problem, const Device &device);

}  // namespace lily::cuda
