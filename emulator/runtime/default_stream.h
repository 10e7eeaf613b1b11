// Resolves the null stream. Files with stream functions are compiled twice: with CUDA_API_PER_THREAD_DEFAULT_STREAM,
// the CUDA headers rename each cudaX to cudaX_ptsz or cudaX_ptds, which programs built with --default-stream per-thread
// call.
#pragma once

#include "runtime/stream.h"

namespace lily::emulator::runtime {
namespace {

#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
constexpr bool kNullIsPerThread = true;
#else
constexpr bool kNullIsPerThread = false;
#endif

// Calls body(stream), or fails if the handle is not that of an existing stream.
template <class Body>
cudaError_t with_stream(cudaStream_t handle, Body &&body) {
  Stream *stream = find_stream(handle, kNullIsPerThread);
  return stream != nullptr ? body(*stream) : cudaErrorInvalidResourceHandle;
}

}  // namespace
}  // namespace lily::emulator::runtime
