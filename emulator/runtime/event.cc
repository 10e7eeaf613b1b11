// Functions on events; cudaStreamWaitEvent is in stream.cc.
#include <map>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/leaks.h"
#include "runtime/stream.h"

namespace lily::emulator::runtime {
namespace {

std::map<const void *, std::unique_ptr<Event>> &events() {
  static auto *const events = new std::map<const void *, std::unique_ptr<Event>>;
  return *events;
}

cudaError_t create_event(cudaEvent_t *handle, unsigned flags) {
  constexpr unsigned known = cudaEventBlockingSync | cudaEventDisableTiming;
  if ((flags & ~known) != 0) return cudaErrorInvalidValue;
  auto event = std::make_unique<Event>();
  event->flags = flags;
  event->device = current_device_index();
  event->label = describe_call("an event");
  *handle = reinterpret_cast<cudaEvent_t>(event.get());
  events()[event.get()] = std::move(event);
  return cudaSuccess;
}

cudaError_t record(Stream &stream, Event &event) {
  using Clock = std::chrono::steady_clock;
  if (event.device != stream.device) return cudaErrorInvalidResourceHandle;
  if (stream.capture) {
    event.capture = stream.capture;
    event.capture_dependencies = stream.capture_dependencies;
    return stream.capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
  }
  event.capture = nullptr;
  event.time = std::make_shared<Clock::time_point>();
  const cudaError_t error = enqueue(stream, {.name = "an event", .run = [time = event.time] { *time = Clock::now(); }});
  if (error == cudaSuccess) event.record = stream.last;
  return error;
}

}  // namespace

Event *find_event(cudaEvent_t handle) {
  const auto found = events().find(handle);
  return found != events().end() ? found->second.get() : nullptr;
}

std::vector<std::string> live_events(int index) {
  std::vector<std::string> result;
  for (const auto &[handle, each] : events()) {
    if (each->device == index) result.push_back(each->label);
  }
  return result;
}

void destroy_events(int index) {
  std::erase_if(events(), [&](const auto &each) { return each.second->device == index; });
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return call(__func__, [&] { return create_event(event, cudaEventDefault); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  return call(__func__, [&] { return create_event(event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return call(__func__, Requirement::kRelease,
              [&] { return events().erase(handle) == 1 ? cudaSuccess : cudaErrorInvalidResourceHandle; });
}

cudaError_t cudaEventRecord(cudaEvent_t event_handle, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      Event *event = find_event(event_handle);
      return event != nullptr ? record(stream, *event) : cudaErrorInvalidResourceHandle;
    });
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call(__func__, [&] {
    Event *event = find_event(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = check_captured_event(*event)) return error;
    if (const cudaError_t error = check_unsafe_call()) return error;
    if (!is_done(event->record)) make_progress();
    if (!is_done(event->record)) return cudaErrorNotReady;
    if (event->record != nullptr) host_clock().join(event->record->clock);
    return device(event->device).sticky_error;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call(__func__, [&] {
    Event *event = find_event(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = check_captured_event(*event)) return error;
    finish(event->record);
    if (event->record != nullptr) host_clock().join(event->record->clock);
    return device(event->device).sticky_error;
  });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call(__func__, [&] {
    const Event *first = find_event(start);
    const Event *second = find_event(end);
    if (first == nullptr || second == nullptr) return cudaErrorInvalidResourceHandle;
    if (first->record == nullptr || second->record == nullptr) return cudaErrorInvalidResourceHandle;
    if (((first->flags | second->flags) & cudaEventDisableTiming) != 0) return cudaErrorInvalidResourceHandle;
    if (!is_done(first->record) || !is_done(second->record)) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(*second->time - *first->time).count();
    return cudaSuccess;
  });
}

}  // extern "C"
