// CUDA errors: their names, and the last error of each thread.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace lily::emulator::runtime {

// Finds an error by name (cudaErrorInvalidValue); returns false if there is none.
bool find_error(std::string_view name, cudaError_t *error);

// Whether every later call on the device fails after this error.
bool loses_context(cudaError_t error);

// Sets the thread's result of cudaGetLastError; cudaSuccess does not reset an earlier error.
void remember_error(cudaError_t error);

// The sticky error of the thread's current device, or cudaSuccess.
cudaError_t current_sticky_error();

}  // namespace lily::emulator::runtime
