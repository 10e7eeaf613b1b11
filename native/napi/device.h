// Memory, streams and events of devices. JavaScript holds each by an External, whose finalizer lets go of it.
#pragma once

#include <napi.h>

#include "lily/backend.h"
#include "napi/shared.h"

namespace lily::napi {

// A stream of the package's. When it ends its later work is that of the device's own stream, so that memory which
// belongs to it outlives it.
class Stream {
 public:
  // The device's own one.
  static Shared<Stream> own(Napi::Env env, const lily_backend &backend, int32_t device);
  static Shared<Stream> create(Napi::Env env, const lily_backend &backend, int32_t device);

  Stream(const lily_backend &backend, int32_t device, lily_stream handle, Shared<Stream> heir)
      : backend_(backend), device_(device), handle_(handle), heir_(std::move(heir)) {}
  ~Stream() { end(); }

  int32_t device() const { return device_; }
  lily_stream handle() const { return heir_ != nullptr && ended_ ? heir_->handle() : handle_; }
  // Between the two it records what it is given, and the pools with it. A record that has failed makes no graph.
  lily_status begin_capture();
  lily_status end_capture(lily_graph *graph);
  lily_status end();

 private:
  const lily_backend &backend_;
  const int32_t device_;
  const lily_stream handle_;
  const Shared<Stream> heir_;  // null: this is the device's own stream, which is not ended
  bool ended_ = false;
  bool capturing_ = false;
};

// The address of `bytes` bytes from `offset` on, for a call on a device; memory_of in operands.h describes it.
void *device_memory_of(Napi::Env env, int32_t device, napi_value value, int64_t offset, int64_t bytes,
                       const char *name);

// Counts the environments (the main thread, workers) that have the addon. The last one that ends gives all back.
class Environment {
 public:
  Environment();
  ~Environment();
};

// The functions of lib/binding/native.ts that concern devices.
void add_device_functions(Napi::Env env, Napi::Object exports);

}  // namespace lily::napi
