#include "runtime/stream.h"

#include <map>
#include <thread>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/leaks.h"

namespace lily::emulator::runtime {
namespace {

using Kind = Stream::Kind;

struct Registry {
  std::map<const void *, std::shared_ptr<Stream>> streams;  // created by the program
  std::map<std::pair<std::thread::id, int>, std::shared_ptr<Stream>> per_thread;
  unsigned long long next_id = 1;
};

Registry &registry() {
  static Registry *const registry = new Registry;
  return *registry;
}

std::shared_ptr<Stream> make_stream(Kind kind, int device) {
  auto stream = std::make_shared<Stream>();
  stream->kind = kind;
  stream->device = device;
  stream->id = registry().next_id++;
  return stream;
}

Stream &legacy_stream(int index) {
  std::shared_ptr<Stream> &stream = device(index).legacy_stream;
  if (stream == nullptr) stream = make_stream(Kind::kLegacy, index);
  return *stream;
}

Stream &per_thread_stream(int index) {
  std::shared_ptr<Stream> &stream = registry().per_thread[{std::this_thread::get_id(), index}];
  if (stream == nullptr) stream = make_stream(Kind::kPerThread, index);
  return *stream;
}

bool waits_for_legacy(const Stream &stream) {
  return stream.kind == Kind::kPerThread || stream.kind == Kind::kBlocking;
}

struct Predecessors {
  std::vector<OperationPtr> operations;  // those that are not done
  VectorClock clock;                     // of all of them, done or not
};

// The dependencies of new work in the stream. The legacy stream and the blocking streams of its device wait for each
// other.
Predecessors predecessors(Stream &stream) {
  Predecessors result;
  const auto add = [&](const OperationPtr &operation) {
    if (operation != nullptr) result.clock.join(operation->clock);
    if (!is_done(operation)) result.operations.push_back(operation);
  };
  add(stream.last);
  if (waits_for_legacy(stream)) add(legacy_stream(stream.device).last);
  if (stream.kind != Kind::kLegacy) return result;
  const auto add_blocking = [&](const Stream &other) {
    if (other.device == stream.device && waits_for_legacy(other)) add(other.last);
  };
  for (const auto &[handle, each] : registry().streams) add_blocking(*each);
  for (const auto &[key, each] : registry().per_thread) add_blocking(*each);
  for (const OperationPtr &each : device(stream.device).orphans) add(each);
  device(stream.device).orphans.clear();
  return result;
}

OperationPtr next_operation(Stream &stream) {
  Predecessors before = predecessors(stream);
  auto operation = std::make_shared<Operation>();
  operation->dependencies = std::move(before.operations);
  operation->clock = std::move(before.clock);
  operation->clock.join(host_clock());
  operation->device = stream.device;
  return operation;
}

cudaError_t create_stream(cudaStream_t *handle, unsigned flags) {
  if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  const Kind kind = flags == cudaStreamNonBlocking ? Kind::kNonBlocking : Kind::kBlocking;
  const auto stream = make_stream(kind, current_device_index());
  stream->label = describe_call("a stream");
  registry().streams[stream.get()] = stream;
  *handle = reinterpret_cast<cudaStream_t>(stream.get());
  return cudaSuccess;
}

cudaError_t wait(Stream &stream, Event &event) {
  if (event.capture || stream.capture) return capture_wait(stream, event);
  if (const cudaError_t error = check_not_capturing(stream)) return error;
  if (event.record != nullptr) enqueue_after(stream, event.record);
  return cudaSuccess;
}

// The stream's work continues; only the handle becomes invalid.
void destroy(Stream &stream) {
  if (stream.capture) invalidate(*stream.capture);
  remove_from_capture(stream);
  if (waits_for_legacy(stream) && stream.last != nullptr) device(stream.device).orphans.push_back(stream.last);
  registry().streams.erase(&stream);
}

}  // namespace

Stream *find_stream(cudaStream_t handle) {
  if (handle == cudaStreamPerThread) return &per_thread_stream(current_device_index());
  if (handle == nullptr || handle == cudaStreamLegacy) return &legacy_stream(current_device_index());
  const auto found = registry().streams.find(handle);
  return found != registry().streams.end() ? found->second.get() : nullptr;
}

cudaError_t enqueue(Stream &stream, Work work) {
  if (stream.capture) return capture_work(stream, std::move(work));
  if (stream.kind == Kind::kLegacy) {
    if (const cudaError_t error = check_legacy_work(stream.device)) return error;
  }
  const OperationPtr operation = next_operation(stream);
  operation->work = std::move(work.run);
  operation->host_function = work.host_function;
  operation->name = work.name + " in stream " + std::to_string(stream.id);
  if (work.dependent) operation->follows = stream.last;
  assign_time(*operation, stream.timeline);
  stream.last = operation;
  submit(operation);
  return cudaSuccess;
}

void enqueue_after(Stream &stream, const OperationPtr &operation) {
  const OperationPtr marker = next_operation(stream);
  if (operation != nullptr) marker->clock.join(operation->clock);
  if (!is_done(operation)) marker->dependencies.push_back(operation);
  assign_time(*marker, stream.timeline);
  stream.last = marker;
  submit(marker);
}

cudaError_t check_not_capturing(Stream &stream) {
  if (stream.kind == Kind::kLegacy) return check_legacy_work(stream.device);
  if (!stream.capture) return cudaSuccess;
  invalidate(*stream.capture);
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t synchronize(Stream &stream) {
  if (const cudaError_t error = check_not_capturing(stream)) return error;
  const Predecessors before = predecessors(stream);
  for (const OperationPtr &each : before.operations) finish(each);
  host_clock().join(before.clock);
  return device(stream.device).sticky_error;
}

std::vector<std::string> live_streams(int index) {
  std::vector<std::string> result;
  for (const auto &[handle, each] : registry().streams) {
    if (each->device == index) result.push_back(each->label);
  }
  return result;
}

void destroy_streams(int index) {
  for (const auto &[handle, each] : registry().streams) {
    if (each->device == index) remove_from_capture(*each);
  }
  std::erase_if(registry().streams, [&](const auto &each) { return each.second->device == index; });
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return call(__func__, [&] { return create_stream(stream, flags); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return call(__func__, Requirement::kRelease, [&] {
    const bool is_created = handle != nullptr && handle != cudaStreamLegacy && handle != cudaStreamPerThread;
    Stream *stream = is_created ? find_stream(handle) : nullptr;
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    destroy(*stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call(__func__, [&] { return with_stream(handle, [](Stream &stream) { return synchronize(stream); }); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned flags) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      Event *event = find_event(event_handle);
      if (event == nullptr) return cudaErrorInvalidResourceHandle;
      return flags == cudaEventWaitDefault ? wait(stream, *event) : cudaErrorInvalidValue;
    });
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *data) {
  return call(__func__, [&] {
    if (function == nullptr) return cudaErrorInvalidValue;
    return with_stream(handle, [&](Stream &stream) {
      return enqueue(stream, {.name = "a host function", .run = [=] { function(data); }, .host_function = true});
    });
  });
}

}  // extern "C"
