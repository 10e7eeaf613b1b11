// Stream capture: a call that CUDA forbids during a capture fails with CUDA's error and invalidates the capture.
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
  std::vector<Stream *> streams;  // all streams that take part, including the origin
  bool invalid = false;
};

void invalidate(Capture &capture);

// For calls that the documentation classifies as potentially unsafe (cudaMalloc, cudaFree, cudaEventQuery, device
// synchronisation): invalidates the captures that forbid them on this thread, and returns the error if there is any.
cudaError_t check_unsafe_call();

// Fails if a blocking stream of the device is capturing: work in the legacy stream would wait for it.
cudaError_t check_legacy_work(int device);

// Fails for an event that was last recorded in a capturing stream; only cudaStreamWaitEvent accepts such an event.
cudaError_t check_captured_event(Event &event);

// capture_work adds work to the stream's capture; capture_wait makes the stream join the event's capture.
cudaError_t capture_work(Stream &stream, Work work);
cudaError_t capture_wait(Stream &stream, Event &event);

// Removes a stream that is destroyed while it is capturing.
void remove_from_capture(Stream &stream);

}  // namespace lily::emulator::runtime
