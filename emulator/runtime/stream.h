// Streams and events: what work comes after what.
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
  int priority = 0;
  unsigned long long id = 0;
  std::string made_by;  // for the finding of a leak
  OperationPtr last;    // comes before all that is queued next
  Timeline timeline;
  std::shared_ptr<Capture> capture;         // set between begin and end of a capture
  std::vector<GraphNode *> captured_after;  // what the next captured node comes after
};

struct Event {
  unsigned flags = 0;
  int device = 0;
  std::string made_by;
  // Of the last record; null before the first.
  OperationPtr record;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
  // Of a record in a capturing stream.
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode *> captured_after;
};

// The stream behind a handle: null stands for the legacy stream, or for the thread's own in programs built with
// --default-stream per-thread. Null for a handle that is none (any more).
Stream *find_stream(cudaStream_t handle, bool null_is_per_thread);
Event *find_event(cudaEvent_t handle);

struct Work {
  std::string name;  // "a copy", "the kernel scale"
  std::function<void()> run;
  bool host_function = false;
  cudaGraphNodeType node = cudaGraphNodeTypeEmpty;
};

// Queues work, or adds it to the graph when the stream is capturing.
cudaError_t enqueue(Stream &stream, Work work);

// A marker that comes after the stream's work and after the operation.
void enqueue_after(Stream &stream, const OperationPtr &operation);

// What a capturing stream forbids, and the legacy stream while a blocking one captures.
cudaError_t refuse_while_capturing(Stream &stream);

// Waits for all that was queued; asks whether it is done and takes a step if not.
cudaError_t synchronize(Stream &stream);
cudaError_t query(Stream &stream);

// For leaks and cudaDeviceReset: what the program made and has not destroyed.
std::vector<std::string> live_streams(int device);
std::vector<std::string> live_events(int device);
void destroy_streams(int device);
void destroy_events(int device);

}  // namespace lily::emulator::runtime
