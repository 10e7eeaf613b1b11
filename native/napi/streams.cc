// Streams, events and waits.
#include "napi/streams.h"

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "core/caching_pool.h"
#include "napi/exports.h"
#include "napi/handles.h"
#include "napi/waits.h"

namespace lily::napi {
namespace {

std::mutex default_streams_mutex;

std::map<int32_t, Shared<Stream>> &default_streams() {
  static auto *const streams = new std::map<int32_t, Shared<Stream>>;
  return *streams;
}

// ---- Functions for JavaScript: streams ----

// (device) -> stream
Napi::Value stream_default(const Napi::CallbackInfo &info) {
  auto stream = Stream::default_of(info.Env(), cuda(info.Env()), device_number(info, 0));
  return wrap(info.Env(), std::make_unique<StreamHandle>(std::move(stream)));
}

// (device) -> stream
Napi::Value stream_create(const Napi::CallbackInfo &info) {
  auto stream = Stream::create(info.Env(), cuda(info.Env()), device_number(info, 0));
  return wrap(info.Env(), std::make_unique<StreamHandle>(std::move(stream)));
}

// (stream) -> CUDA handle
Napi::Value stream_handle(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(argument<StreamHandle>(info, 0).stream->handle()));
}

// (stream)
void stream_destroy(const Napi::CallbackInfo &info) {
  check(info.Env(), cuda(info.Env()), argument<StreamHandle>(info, 0).stream->end());
}

// (device, first, device, then): later work of `then` runs after the work queued in `first` so far.
void stream_order(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  const Event event(info.Env(), backend, device_number(info, 0), false);
  event.record(info.Env(), stream_number(info, 1));
  check(info.Env(), backend, backend.stream_wait_event(device_number(info, 2), stream_number(info, 3), event.event));
}

// (device, stream) -> promise
Napi::Value stream_wait(const Napi::CallbackInfo &info) {
  auto event = Shared<Event>::make(info.Env(), cuda(info.Env()), device_number(info, 0), false);
  event->record(info.Env(), stream_number(info, 1));
  return Wait::start(std::make_unique<Wait>(info.Env(), std::move(event)));
}

// ---- Functions for JavaScript: events ----

const Shared<Event> &event_argument(const Napi::CallbackInfo &info, size_t index) {
  const EventHandle &handle = argument<EventHandle>(info, index);
  if (handle.event != nullptr) return handle.event;
  throw make_error(info.Env(), "ERR_LILY_DISPOSED", "the event has been disposed of");
}

// (device) -> event
Napi::Value event_create(const Napi::CallbackInfo &info) {
  auto event = Shared<Event>::make(info.Env(), cuda(info.Env()), device_number(info, 0), true);
  return wrap(info.Env(), std::make_unique<EventHandle>(std::move(event)));
}

// (event)
void event_destroy(const Napi::CallbackInfo &info) { argument<EventHandle>(info, 0).release(info.Env()); }

// (event, stream)
void event_record(const Napi::CallbackInfo &info) {
  event_argument(info, 0)->record(info.Env(), stream_number(info, 1));
}

// (event) -> boolean
Napi::Value event_query(const Napi::CallbackInfo &info) {
  const Event &event = *event_argument(info, 0);
  int32_t ready = 0;
  check(info.Env(), event.backend, event.backend.event_query(event.device, event.event, &ready));
  return Napi::Boolean::New(info.Env(), ready != 0);
}

// (event) -> promise
Napi::Value event_wait(const Napi::CallbackInfo &info) {
  return Wait::start(std::make_unique<Wait>(info.Env(), event_argument(info, 0)));
}

// (start, end) -> milliseconds
Napi::Value event_elapsed(const Napi::CallbackInfo &info) {
  const Event &start = *event_argument(info, 0), &end = *event_argument(info, 1);
  float milliseconds = 0;
  check(info.Env(), start.backend, start.backend.event_elapsed(start.device, start.event, end.event, &milliseconds));
  return Napi::Number::New(info.Env(), milliseconds);
}

// (device, stream, event)
void stream_wait_event(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  check(info.Env(), backend,
        backend.stream_wait_event(device_number(info, 0), stream_number(info, 1), event_argument(info, 2)->event));
}

}  // namespace

Shared<Stream> Stream::default_of(Napi::Env env, const lily_backend &backend, int32_t device) {
  const std::lock_guard<std::mutex> lock(default_streams_mutex);
  Shared<Stream> &stream = default_streams()[device];
  if (stream == nullptr) {
    lily_stream handle = 0;
    check(env, backend, backend.stream_default(device, &handle));
    stream = Shared<Stream>::make(backend, device, handle, lily_event{0}, nullptr);
  }
  return stream;
}

Shared<Stream> Stream::create(Napi::Env env, const lily_backend &backend, int32_t device) {
  Shared<Stream> successor = default_of(env, backend, device);
  lily_event last = 0;
  check(env, backend, backend.event_create(device, 0, &last));
  lily_stream handle = 0;
  if (const lily_status status = backend.stream_create(device, &handle)) {
    const Failure failure(backend, status);
    backend.event_destroy(device, last);
    throw failure.error(env);
  }
  return Shared<Stream>::make(backend, device, handle, last, std::move(successor));
}

void Stream::release_defaults() {
  const std::lock_guard<std::mutex> lock(default_streams_mutex);
  default_streams().clear();
}

lily_status Stream::begin_capture() {
  const lily_status status = backend_.capture_begin(device_, handle_);
  if (status != LILY_OK) return status;
  capturing_ = true;
  set_recording_in_pools(backend_, device_, handle_, true);
  return LILY_OK;
}

lily_status Stream::end_capture(lily_graph *graph) {
  set_recording_in_pools(backend_, device_, handle_, false);
  const lily_status status = backend_.capture_end(device_, handle_, graph);
  capturing_ = false;
  return status;
}

lily_status Stream::end() {
  if (successor_ == nullptr || ended_) return LILY_OK;
  if (capturing_) {
    // A worker was stopped during a capture. The graph never runs, and the successor must not become part of the
    // capture.
    lily_graph graph = 0;
    if (end_capture(&graph) == LILY_OK) backend_.graph_destroy(device_, graph);
  }
  lily_status status = backend_.event_record(device_, last_, handle_);
  if (status == LILY_OK) status = backend_.stream_wait_event(device_, successor_->handle(), last_);
  backend_.event_destroy(device_, last_);
  // A reset of the device has ended the stream and its work already.
  if (Failure(backend_, status).device_error == "cudaErrorContextIsDestroyed") status = LILY_OK;
  ended_ = true;
  hand_over_pools(backend_, device_, handle_, successor_->handle());
  const lily_status destroyed = backend_.stream_destroy(device_, handle_);
  return status != LILY_OK ? status : destroyed;
}

void add_stream_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("streamDefault", Napi::Function::New<stream_default>(env));
  exports.Set("streamCreate", Napi::Function::New<stream_create>(env));
  exports.Set("streamHandle", Napi::Function::New<stream_handle>(env));
  exports.Set("streamDestroy", Napi::Function::New<stream_destroy>(env));
  exports.Set("streamOrder", Napi::Function::New<stream_order>(env));
  exports.Set("streamWait", Napi::Function::New<stream_wait>(env));
  exports.Set("streamWaitEvent", Napi::Function::New<stream_wait_event>(env));
  exports.Set("eventCreate", Napi::Function::New<event_create>(env));
  exports.Set("eventDestroy", Napi::Function::New<event_destroy>(env));
  exports.Set("eventRecord", Napi::Function::New<event_record>(env));
  exports.Set("eventQuery", Napi::Function::New<event_query>(env));
  exports.Set("eventWait", Napi::Function::New<event_wait>(env));
  exports.Set("eventElapsed", Napi::Function::New<event_elapsed>(env));
}

}  // namespace lily::napi
