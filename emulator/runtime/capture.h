// Stream capture: what a real capture forbids fails here with CUDA's own error and makes the capture invalid.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <thread>
#include <vector>

#include "runtime/graph.h"
#include "runtime/stream.h"

namespace lily::emulator::runtime {

struct Capture {
  std::unique_ptr<Graph> graph;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  Stream *origin = nullptr;
  std::vector<Stream *> streams;  // that take part, the origin among them
  bool invalid = false;
  unsigned long long id = 0;
};

void invalidate(Capture &capture);

// For calls that the documentation calls potentially unsafe (cudaMalloc, cudaFree, cudaEventQuery, synchronisation of
// the device): fails and invalidates the captures that forbid them to this thread.
cudaError_t refuse_unsafe_call();

// Work in the legacy stream would wait for a capturing blocking stream.
cudaError_t refuse_legacy_work(int device);

// An event last recorded in a capturing stream can only be waited for by a stream.
cudaError_t refuse_captured_event(Event &event);

// Adds work to the capture of the stream; makes the stream join the capture of the event.
cudaError_t capture_work(Stream &stream, Work work);
cudaError_t capture_wait(Stream &stream, Event &event);

cudaError_t begin_capture(Stream &stream, cudaStreamCaptureMode mode);
cudaError_t end_capture(Stream &stream, cudaGraph_t *graph);

// A stream that is destroyed while it captures.
void forget_stream(Stream &stream);

}  // namespace lily::emulator::runtime
