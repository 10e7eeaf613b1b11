// Functions on events. Those that take a stream are in stream_calls.cc.
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
  constexpr unsigned known = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
  if ((flags & ~known) != 0) return cudaErrorInvalidValue;
  if ((flags & cudaEventInterprocess) != 0) return cudaErrorNotSupported;
  auto event = std::make_unique<Event>();
  event->flags = flags;
  event->device = current_device_index();
  event->label = describe_call("an event");
  *handle = reinterpret_cast<cudaEvent_t>(event.get());
  events()[event.get()] = std::move(event);
  return cudaSuccess;
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
