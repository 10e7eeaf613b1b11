// Copies and memsets, checked against the allocations when they are called and again when they run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

// A rectangle of bytes; the height is 1 for a one-dimensional copy.
struct Rectangle {
  void *to = nullptr;
  size_t to_pitch = 0;
  const void *from = nullptr;
  size_t from_pitch = 0;
  size_t width = 0, height = 1;
  cudaMemcpyKind kind = cudaMemcpyDefault;
};

// `wait`: the copy returns only when the host may use its memory.
cudaError_t copy(Stream &stream, Rectangle rectangle, bool wait);

cudaError_t fill(Stream &stream, void *to, size_t pitch, int value, size_t width, size_t height);

}  // namespace lily::emulator::runtime
