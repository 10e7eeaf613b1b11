// Streams and events, and the order of work that they define.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/scheduler.h"

namespace lily::emulator::runtime {

struct Capture;
struct GraphNode;

struct Stream {
  enum class Kind { kLegacy, kPerThread, kBlocking, kNonBlocking };
  Kind kind = Kind::kBlocking;
  int device = 0;
  unsigned long long id = 0;
  std::string label;  // for leak findings
  OperationPtr last;  // dependency of the next operation
  Timeline timeline;
  std::shared_ptr<Capture> capture;               // set during a capture
  std::vector<GraphNode *> capture_dependencies;  // dependencies of the next captured node
};

struct Event {
  unsigned flags = 0;
  int device = 0;
  std::string label;
  // The last record; null before the first.
  OperationPtr record;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
  // Set if the last record was in a capturing stream.
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode *> capture_dependencies;
};

// The stream of a handle; null for a handle that is not that of an existing stream.
Stream *find_stream(cudaStream_t handle);
Event *find_event(cudaEvent_t handle);

// Calls body(stream), or fails if the handle is not that of an existing stream.
template <class Body>
cudaError_t with_stream(cudaStream_t handle, Body &&body) {
  Stream *stream = find_stream(handle);
  return stream != nullptr ? body(*stream) : cudaErrorInvalidResourceHandle;
}

struct Work {
  std::string name;  // "a copy", "the kernel scale"
  std::function<void()> run;
  bool host_function = false;
  bool dependent = false;  // programmatic dependent launch
};

// Queues work, or adds it to the graph if the stream is capturing.
cudaError_t enqueue(Stream &stream, Work work);

// Queues a marker that runs after the stream's work and after the operation.
void enqueue_after(Stream &stream, const OperationPtr &operation);

// Fails and invalidates the capture if the stream is capturing or, for the legacy stream, if a blocking stream is.
cudaError_t check_not_capturing(Stream &stream);

// Waits for all work in the stream.
cudaError_t synchronize(Stream &stream);

// For leaks and cudaDeviceReset: objects that the program created and has not destroyed.
std::vector<std::string> live_streams(int device);
std::vector<std::string> live_events(int device);
void destroy_streams(int device);
void destroy_events(int device);

}  // namespace lily::emulator::runtime
