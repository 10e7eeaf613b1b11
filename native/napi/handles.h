// The Externals (Node-API) that represent device memory, streams, events and graphs in JavaScript. The finalizer of an
// External releases the resource.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "core/caching_pool.h"
#include "lily/backend.h"
#include "napi/errors.h"
#include "napi/shared.h"
#include "napi/streams.h"

namespace lily::napi {

// The base of the objects that Externals point to; `kind` identifies the type.
struct Handle {
  enum Kind : uint32_t { kMemory = 0x6c696c01, kStream, kEvent, kGraph, kImported };
  explicit Handle(Kind kind);
  Handle(const Handle &) = delete;
  Handle &operator=(const Handle &) = delete;
  ~Handle();
  const Kind kind;
};

// Whether a live Handle has this address: other addons and Node.js itself also create Externals.
bool is_handle(const void *data);

// A block of the device's pool.
struct Memory : Handle {
  static constexpr Kind kKind = kMemory;
  static constexpr const char *kName = "device memory";
  Memory(const lily_backend &backend, Shared<Stream> memory_stream, size_t bytes)
      : Handle(kKind),
        backend(backend),
        stream(std::move(memory_stream)),
        bytes(bytes),
        data(caching_pool(backend, stream->device()).take(bytes, stream->handle())) {}

  void release(Napi::Env env) {
    if (data == nullptr) return;
    caching_pool(backend, stream->device()).return_block(data, bytes, stream->handle());
    data = nullptr;
    Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(bytes));
  }

  const lily_backend &backend;
  const Shared<Stream> stream;
  const size_t bytes;
  void *data;  // null: released
};

struct StreamHandle : Handle {
  static constexpr Kind kKind = kStream;
  static constexpr const char *kName = "a stream";
  explicit StreamHandle(Shared<Stream> stream) : Handle(kKind), stream(std::move(stream)) {}
  void release(Napi::Env) { stream->end(); }
  const Shared<Stream> stream;
};

struct EventHandle : Handle {
  static constexpr Kind kKind = kEvent;
  static constexpr const char *kName = "an event";
  explicit EventHandle(Shared<Event> event) : Handle(kKind), event(std::move(event)) {}
  void release(Napi::Env) { event = nullptr; }
  Shared<Event> event;  // null: released
};

struct GraphHandle : Handle {
  static constexpr Kind kKind = kGraph;
  static constexpr const char *kName = "a graph";
  GraphHandle(const lily_backend &backend, int32_t device, lily_graph graph)
      : Handle(kKind), backend(backend), device(device), graph(graph) {}
  void release(Napi::Env) { destroy(); }
  lily_status destroy() { return graph == 0 ? LILY_OK : backend.graph_destroy(device, std::exchange(graph, 0)); }

  const lily_backend &backend;
  const int32_t device;
  lily_graph graph;  // 0: destroyed
};

template <typename T>
Napi::Value wrap(Napi::Env env, std::unique_ptr<T> handle) {
  const auto external = Napi::External<T>::New(env, handle.get(), [](Napi::Env finalizing, T *held) {
    held->release(finalizing);
    delete held;
  });
  static_cast<void>(handle.release());  // the finalizer owns it from now on
  return external;
}

// Null if the value is no External of that kind.
template <typename T>
T *unwrap(Napi::Env env, napi_value value) {
  napi_valuetype type;
  void *data = nullptr;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_external) return nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok) return nullptr;
  if (!is_handle(data)) return nullptr;
  Handle *handle = static_cast<Handle *>(data);
  return handle->kind == T::kKind ? static_cast<T *>(handle) : nullptr;
}

// An argument that must be an External of that kind.
template <typename T>
T &argument(const Napi::CallbackInfo &info, size_t index) {
  if (T *handle = unwrap<T>(info.Env(), info[index])) return *handle;
  throw make_error(info.Env(), "ERR_LILY_ARGUMENT", std::string("expected ") + T::kName);
}

// The CUDA backend; throws if it is absent.
const lily_backend &cuda(Napi::Env env);

// A whole number among the arguments: a count of bytes or a stream, and the number of a CUDA device. The handle of a
// stream cannot be checked: it may be of another library.
int64_t number(const Napi::CallbackInfo &info, size_t index, int64_t most = int64_t{1} << 53);
lily_stream stream_number(const Napi::CallbackInfo &info, size_t index);
int32_t device_number(const Napi::CallbackInfo &info, size_t index);

// The address of `bytes` bytes from `offset` on, for a call on a device. The value is a Memory, or an address as a
// BigInt, whose first and last byte must be memory of the device.
void *device_memory_of(Napi::Env env, int32_t device, napi_value value, int64_t offset, int64_t bytes,
                       const char *name);

}  // namespace lily::napi
