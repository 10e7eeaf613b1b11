// Interface between the C ABI's functions and the launches; one implementation per engine.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device.h"
#include "cuda/error.h"
#include "cuda/forward_route.cuh"
#include "cuda/gradient.cuh"
#include "cuda/plan.h"
#include "cuda/pool.cuh"

namespace lily::cuda {

inline Operand operand(const lily_matrix &matrix) {
  const auto begins_at = [&](int bytes) {
    return reinterpret_cast<uintptr_t>(matrix.data) % bytes == 0 &&
           matrix.pitch * dtype_bytes(matrix.dtype) % bytes == 0;
  };
  return {matrix.data, matrix.pitch, matrix.dtype, begins_at(16), begins_at(8)};
}

inline Output output(const lily_matrix &matrix) {
  const Operand read = operand(matrix);
  return {matrix.data, read.pitch, read.dtype, read.aligned16, matrix.accumulate};
}

// A contiguous matrix.
inline Operand contiguous(const void *data, int64_t columns, int32_t dtype) {
  return operand({const_cast<void *>(data), columns, dtype, 0});
}

inline Output contiguous_output(void *data, int64_t columns, int32_t dtype, bool accumulate = false) {
  return output({data, columns, dtype, accumulate});
}

// With workspace_bytes null, forward and backward run the call. Otherwise they store the required workspace size and
// launch nothing.
struct EngineFunctions {
  lily_status (*forward)(const lily_forward &call, const Device &device, size_t *workspace_bytes);
  lily_status (*backward)(const lily_backward &call, const Device &device, size_t *workspace_bytes);
  lily_status (*prepare)(const Device &device);
};

extern const EngineFunctions kExactFunctions, kTf32Functions, kBfloat16Functions, kFloat16Functions;

// Kernels that all engines share.
lily_status launch_route(const ForwardRoute &call, int tiles, cudaStream_t stream);
lily_status launch_pool(const Pool &call, cudaStream_t stream);
lily_status launch_reduce(const Reduce &call, cudaStream_t stream);
lily_status launch_fold(const Fold &call, cudaStream_t stream);
lily_status launch_write_weights(float *weights, int64_t count, float value, cudaStream_t stream);

constexpr int kMostColumns = 1 << 30;

template <typename Call>
lily_status launch(void (*kernel)(Call), const char *name, dim3 blocks, int shared_bytes, cudaStream_t stream,
                   const Call &call) {
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, call);
  return error == cudaSuccess ? LILY_OK : report(error, name);
}

}  // namespace lily::cuda
