// Functions for stream capture and graph launches.
#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/default_stream.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaStreamCaptureStatus status_of(const Stream &stream) {
  if (!stream.capture) return cudaStreamCaptureStatusNone;
  return stream.capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return begin_capture(stream, mode); }); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return end_capture(stream, graph); }); });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      *status = status_of(stream);
      return cudaSuccess;
    });
  });
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count) {
  return call(__func__, [&] {
    // Does not return the graph under construction, because the emulator has no functions that modify it.
    if (graph != nullptr || dependencies != nullptr || edges != nullptr || count != nullptr)
      return cudaErrorNotSupported;
    return with_stream(handle, [&](Stream &stream) {
      *status = status_of(stream);
      if (id != nullptr && stream.capture) *id = stream.capture->id;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t handle) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return launch_graph(graph, stream); }); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t handle) {
  return call(__func__, [&] { return with_stream(handle, [](Stream &) { return cudaSuccess; }); });
}

}  // extern "C"
