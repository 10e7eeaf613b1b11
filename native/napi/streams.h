// Streams and events of a CUDA device.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/errors.h"
#include "napi/shared.h"

namespace lily::napi {

// A stream that the package has created. The default stream of a device exists as long as the backend is open. Memory
// that belongs to another stream can outlive it: when that stream ends, its memory and all later work pass to the
// default stream of its device, its successor.
class Stream {
 public:
  // The stream in which the package runs calls on a device by default.
  static Shared<Stream> default_of(Napi::Env env, const lily_backend &backend, int32_t device);
  static Shared<Stream> create(Napi::Env env, const lily_backend &backend, int32_t device);
  // Releases the default streams of all devices.
  static void release_defaults();

  Stream(const lily_backend &backend, int32_t device, lily_stream handle, lily_event last, Shared<Stream> successor)
      : backend_(backend), device_(device), handle_(handle), last_(last), successor_(std::move(successor)) {}
  ~Stream() { end(); }

  int32_t device() const { return device_; }
  bool is_default() const { return successor_ == nullptr; }
  bool has_ended() const { return ended_; }
  bool is_capturing() const { return capturing_; }
  lily_stream handle() const { return successor_ != nullptr && ended_ ? successor_->handle() : handle_; }
  // Between begin_capture and end_capture the stream and the pools record work instead of running it. A capture that
  // has failed creates no graph.
  lily_status begin_capture();
  lily_status end_capture(lily_graph *graph);
  lily_status end();

 private:
  const lily_backend &backend_;
  const int32_t device_;
  const lily_stream handle_;
  // Orders the successor after the last work. It is created with the stream: an end that cannot create it would pass on
  // memory that is still in use.
  const lily_event last_;           // 0: the default stream
  const Shared<Stream> successor_;  // null: the default stream, which does not end
  bool ended_ = false;
  bool capturing_ = false;
};

// An event of the backend, shared with the promises that wait for it.
class Event {
 public:
  Event(Napi::Env env, const lily_backend &backend, int32_t device, bool timing) : backend(backend), device(device) {
    check(env, backend, backend.event_create(device, timing ? 1 : 0, &event));
  }
  Event(const Event &) = delete;
  Event &operator=(const Event &) = delete;
  ~Event() { backend.event_destroy(device, event); }

  void record(Napi::Env env, lily_stream stream) const {
    check(env, backend, backend.event_record(device, event, stream));
  }

  const lily_backend &backend;
  const int32_t device;
  lily_event event = 0;
};

}  // namespace lily::napi
