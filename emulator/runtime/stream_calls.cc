// Stream functions, and event functions that take a stream.
#include <memory>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/default_stream.h"
#include "runtime/device.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

using Clock = std::chrono::steady_clock;

cudaError_t record(Stream &stream, Event &event) {
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

cudaError_t wait(Stream &stream, Event &event) {
  if (event.capture || stream.capture) return capture_wait(stream, event);
  if (const cudaError_t error = check_not_capturing(stream)) return error;
  if (event.record != nullptr) enqueue_after(stream, event.record);
  return cudaSuccess;
}

cudaError_t host_function(Stream &stream, std::function<void()> function) {
  return enqueue(
      stream,
      {.name = "a host function", .run = std::move(function), .host_function = true, .node = cudaGraphNodeTypeHost});
}

}  // namespace

extern "C" {

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call(__func__, [&] { return with_stream(handle, [](Stream &stream) { return synchronize(stream); }); });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call(__func__, [&] { return with_stream(handle, [](Stream &stream) { return query(stream); }); });
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

cudaError_t cudaEventRecord(cudaEvent_t event_handle, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      Event *event = find_event(event_handle);
      return event != nullptr ? record(stream, *event) : cudaErrorInvalidResourceHandle;
    });
  });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event_handle, cudaStream_t handle, unsigned flags) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      Event *event = find_event(event_handle);
      if (event == nullptr) return cudaErrorInvalidResourceHandle;
      return flags == cudaEventRecordDefault ? record(stream, *event) : cudaErrorNotSupported;
    });
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *data) {
  return call(__func__, [&] {
    if (function == nullptr) return cudaErrorInvalidValue;
    return with_stream(handle, [&](Stream &stream) { return host_function(stream, [=] { function(data); }); });
  });
}

cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t callback, void *data, unsigned flags) {
  return call(__func__, [&] {
    if (callback == nullptr || flags != 0) return cudaErrorInvalidValue;
    return with_stream(handle, [&](Stream &stream) {
      if (stream.capture) return check_not_capturing(stream);  // also forbidden during a capture
      return host_function(stream, [=] { callback(handle, cudaSuccess, data); });
    });
  });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned *flags) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      *flags = stream.kind == Stream::Kind::kNonBlocking ? cudaStreamNonBlocking : cudaStreamDefault;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int *priority) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      *priority = stream.priority;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaStreamGetId(cudaStream_t handle, unsigned long long *id) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      *id = stream.id;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int *index) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      *index = stream.device;
      return cudaSuccess;
    });
  });
}

}  // extern "C"
