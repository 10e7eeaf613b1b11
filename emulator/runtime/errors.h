// CUDA's errors: names and texts from one table, the last error of each thread.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace lily::emulator::runtime {

// By name (cudaErrorInvalidValue) or number; false for none of the table.
bool find_error(std::string_view name_or_number, cudaError_t *error);

// What cudaGetLastError will tell this thread; cudaSuccess does not wipe out an earlier error.
void remember_error(cudaError_t error);

// The error that broke the context of this thread's device, or cudaSuccess.
cudaError_t broken_context();

}  // namespace lily::emulator::runtime
