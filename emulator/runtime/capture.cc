#include "runtime/capture.h"

#include <algorithm>
#include <set>

#include "runtime/call.h"
#include "runtime/leaks.h"

namespace lily::emulator::runtime {
namespace {

std::vector<std::shared_ptr<Capture>> &captures() {
  static auto *const captures = new std::vector<std::shared_ptr<Capture>>;
  return *captures;
}

// The rules in the documentation of cudaThreadExchangeStreamCaptureMode, which no thread calls.
bool forbids_unsafe_calls(const Capture &capture) {
  if (capture.mode == cudaStreamCaptureModeRelaxed) return false;
  return capture.mode == cudaStreamCaptureModeGlobal || capture.thread == std::this_thread::get_id();
}

// True if the last node of every stream is a direct or indirect dependency of the origin stream's next node.
bool all_joined(const Capture &capture) {
  std::set<const GraphNode *> reached;
  std::vector<GraphNode *> left = capture.origin->capture_dependencies;
  while (!left.empty()) {
    GraphNode *node = left.back();
    left.pop_back();
    if (reached.insert(node).second) left.insert(left.end(), node->dependencies.begin(), node->dependencies.end());
  }
  for (const Stream *stream : capture.streams) {
    for (const GraphNode *node : stream->capture_dependencies) {
      if (!reached.contains(node)) return false;
    }
  }
  return true;
}

void finish_capture(const std::shared_ptr<Capture> &capture) {
  for (Stream *stream : capture->streams) {
    stream->capture = nullptr;
    stream->capture_dependencies.clear();
  }
  std::erase(captures(), capture);
}

}  // namespace

void invalidate(Capture &capture) { capture.invalid = true; }

cudaError_t check_unsafe_call() {
  cudaError_t error = cudaSuccess;
  for (const auto &capture : captures()) {
    if (!forbids_unsafe_calls(*capture)) continue;
    invalidate(*capture);
    error = cudaErrorStreamCaptureUnsupported;
  }
  return error;
}

cudaError_t check_legacy_work(int device) {
  cudaError_t error = cudaSuccess;
  for (const auto &capture : captures()) {
    for (const Stream *stream : capture->streams) {
      if (stream->device != device || stream->kind == Stream::Kind::kNonBlocking) continue;
      invalidate(*capture);
      error = cudaErrorStreamCaptureImplicit;
    }
  }
  return error;
}

cudaError_t check_captured_event(Event &event) {
  if (!event.capture) return cudaSuccess;
  invalidate(*event.capture);
  return cudaErrorCapturedEvent;
}

cudaError_t capture_work(Stream &stream, Work work) {
  Capture &capture = *stream.capture;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  auto node = std::make_unique<GraphNode>();
  node->work = std::move(work);
  node->dependencies = stream.capture_dependencies;
  node->device = stream.device;
  stream.capture_dependencies.assign(1, node.get());
  capture.graph->nodes.push_back(std::move(node));
  return cudaSuccess;
}

cudaError_t capture_wait(Stream &stream, Event &event) {
  // A captured stream must not wait for work outside its capture or in another capture.
  if (!event.capture) {
    invalidate(*stream.capture);
    return cudaErrorStreamCaptureIsolation;
  }
  if (stream.capture && stream.capture != event.capture) {
    invalidate(*stream.capture);
    invalidate(*event.capture);
    return cudaErrorStreamCaptureMerge;
  }
  if (event.capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (std::find(captures().begin(), captures().end(), event.capture) == captures().end()) {
    return cudaErrorCapturedEvent;  // the event's capture has ended
  }
  if (stream.kind == Stream::Kind::kLegacy) {
    invalidate(*event.capture);
    return cudaErrorStreamCaptureImplicit;
  }
  if (!stream.capture) {
    stream.capture = event.capture;
    stream.capture->streams.push_back(&stream);
    stream.capture_dependencies.clear();
  }
  for (GraphNode *node : event.capture_dependencies) {
    auto &dependencies = stream.capture_dependencies;
    if (std::find(dependencies.begin(), dependencies.end(), node) == dependencies.end()) dependencies.push_back(node);
  }
  return cudaSuccess;
}

namespace {

cudaError_t begin_capture(Stream &stream, cudaStreamCaptureMode mode) {
  if (stream.kind == Stream::Kind::kLegacy) return cudaErrorStreamCaptureUnsupported;
  if (stream.capture) return cudaErrorIllegalState;
  auto capture = std::make_shared<Capture>();
  capture->graph = std::make_unique<Graph>();
  capture->graph->device = stream.device;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->streams.assign(1, &stream);
  captures().push_back(capture);
  stream.capture = capture;
  stream.capture_dependencies.clear();
  return cudaSuccess;
}

cudaError_t end_capture(Stream &stream, cudaGraph_t *graph) {
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream.capture;
  if (!capture) return cudaErrorIllegalState;
  if (capture->origin != &stream) {
    invalidate(*capture);
    return cudaErrorStreamCaptureUnmatched;
  }
  if (capture->thread != std::this_thread::get_id() && capture->mode != cudaStreamCaptureModeRelaxed) {
    invalidate(*capture);
    return cudaErrorStreamCaptureWrongThread;
  }
  const bool joined = all_joined(*capture);
  finish_capture(capture);
  if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (!joined) return cudaErrorStreamCaptureUnjoined;
  capture->graph->label = describe_call("a graph");
  *graph = add_graph(std::move(capture->graph));
  return cudaSuccess;
}

}  // namespace

void remove_from_capture(Stream &stream) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (!capture) return;
  if (capture->origin == &stream) {
    finish_capture(capture);
  } else {
    std::erase(capture->streams, &stream);
  }
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return begin_capture(stream, mode); }); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return end_capture(stream, graph); }); });
}

}  // extern "C"
