#include "napi/device.h"

#include <string.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/caching_pool.h"
#include "napi/backends.h"
#include "napi/operands.h"

namespace lily::napi {
namespace {

// What an External holds.
struct Handle {
  enum Kind : uint32_t { kMemory = 0x6c696c01, kStream, kEvent, kGraph };
  explicit Handle(Kind kind) : kind(kind) {}
  const Kind kind;
};

// A block of the device's pool.
struct Memory : Handle {
  static constexpr Kind kKind = kMemory;
  static constexpr const char *kName = "device memory";
  Memory(const lily_backend &backend, Shared<Stream> stream, size_t bytes)
      : Handle(kKind),
        backend(backend),
        home(std::move(stream)),
        bytes(bytes),
        data(caching_pool(backend, home->device()).take(bytes, home->handle())) {}

  void release(Napi::Env env) {
    if (data == nullptr) return;
    caching_pool(backend, home->device()).give_back(data, bytes, home->handle());
    data = nullptr;
    Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(bytes));
  }

  const lily_backend &backend;
  const Shared<Stream> home;
  const size_t bytes;
  void *data;
};

struct StreamHandle : Handle {
  static constexpr Kind kKind = kStream;
  static constexpr const char *kName = "a stream";
  explicit StreamHandle(Shared<Stream> stream) : Handle(kKind), stream(std::move(stream)) {}
  void release(Napi::Env) { stream->end(); }
  const Shared<Stream> stream;
};

// An event of the backend, shared with those who wait for it.
class EventState {
 public:
  EventState(Napi::Env env, const lily_backend &backend, int32_t device, bool timing)
      : backend(backend), device(device) {
    check(env, backend, backend.event_create(device, timing ? 1 : 0, &event));
  }
  EventState(const EventState &) = delete;
  EventState &operator=(const EventState &) = delete;
  ~EventState() { backend.event_destroy(device, event); }

  void record(Napi::Env env, lily_stream stream) const {
    check(env, backend, backend.event_record(device, event, stream));
  }

  const lily_backend &backend;
  const int32_t device;
  lily_event event = 0;
};

struct EventHandle : Handle {
  static constexpr Kind kKind = kEvent;
  static constexpr const char *kName = "an event";
  explicit EventHandle(Shared<EventState> state) : Handle(kKind), state(std::move(state)) {}
  void release(Napi::Env) { state = nullptr; }
  Shared<EventState> state;
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
  lily_graph graph;
};

template <typename T>
Napi::Value wrap(Napi::Env env, std::unique_ptr<T> handle) {
  return Napi::External<T>::New(env, handle.release(), [](Napi::Env finalizing, T *held) {
    held->release(finalizing);
    delete held;
  });
}

// Null: it is no External of that kind.
template <typename T>
T *unwrap(Napi::Env env, napi_value value) {
  napi_valuetype type;
  void *data = nullptr;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_external) return nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok) return nullptr;
  Handle *handle = static_cast<Handle *>(data);
  return handle->kind == T::kKind ? static_cast<T *>(handle) : nullptr;
}

template <typename T>
T &argument(const Napi::CallbackInfo &info, size_t index) {
  if (T *handle = unwrap<T>(info.Env(), info[index])) return *handle;
  throw make_error(info.Env(), "ERR_LILY_ARGUMENT", std::string("expected ") + T::kName);
}

int64_t number(const Napi::CallbackInfo &info, size_t index) { return info[index].As<Napi::Number>().Int64Value(); }
lily_stream stream_number(const Napi::CallbackInfo &info, size_t index) {
  return static_cast<lily_stream>(number(info, index));
}
int32_t device_number(const Napi::CallbackInfo &info, size_t index) {
  return static_cast<int32_t>(number(info, index));
}

const lily_backend &cuda(Napi::Env env) {
  const lily_backend *backend = backend_by_number(1);
  if (backend == nullptr) throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  return *backend;
}

const char *kind_name(int32_t kind) {
  switch (kind) {
    case LILY_MEMORY_DEVICE: return "device memory";
    case LILY_MEMORY_MANAGED: return "managed memory";
    case LILY_MEMORY_PINNED: return "pinned memory of the host";
    default: return "memory of the host, or not allocated";
  }
}

Napi::Error argument_error(Napi::Env env, const char *code, const char *name, const std::string &message) {
  Napi::Error error = make_error(env, code, std::string(name) + ": " + message);
  error.Set("argument", name);
  return error;
}

// (device, address, bytes, name): the first and the last byte of memory that is not the package's.
void check_pointer(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  const int64_t bytes = number(info, 2);
  const std::string given_name = info[3].As<Napi::String>();
  const char *name = given_name.c_str();
  const auto *begin = static_cast<const char *>(device_memory_of(env, device, info[1], 0, bytes, name));
  if (bytes == 0) return;
  for (const int64_t at : {int64_t{0}, bytes - 1}) {
    lily_pointer_info found;
    check(env, backend, backend.pointer_info(begin + at, &found));
    const bool usable = found.kind == LILY_MEMORY_DEVICE || found.kind == LILY_MEMORY_MANAGED;
    if (!usable) {
      throw argument_error(env, at == 0 ? "ERR_LILY_DEVICE" : "ERR_LILY_SHAPE", name,
                           std::string(at == 0 ? "ptr is of " : "it ends in ") + kind_name(found.kind) +
                               "; expected memory of cuda:" + std::to_string(device) +
                               (at == 0 ? "" : " for all of its " + std::to_string(bytes) + " bytes"));
    }
    if (found.kind == LILY_MEMORY_DEVICE && found.device != device) {
      throw argument_error(
          env, "ERR_LILY_DEVICE", name,
          "ptr is of cuda:" + std::to_string(found.device) + ", but its device says cuda:" + std::to_string(device));
    }
  }
}

// Waits on libuv's pool.
class Wait : public Napi::AsyncWorker {
 public:
  Wait(Napi::Env env, Shared<EventState> event)
      : Napi::AsyncWorker(env, "lily-kernels"),
        deferred_(Napi::Promise::Deferred::New(env)),
        event_(std::move(event)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    const lily_backend &backend = event_->backend;
    failure_ = Failure(backend, backend.event_synchronize(event_->device, event_->event));
    if (failure_.status != LILY_OK) {
      SetError(failure_.message);
    } else {
      passed();
    }
  }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error &) override { deferred_.Reject(failure_.error(Env()).Value()); }

  virtual void passed() {}

 private:
  Napi::Promise::Deferred deferred_;
  Shared<EventState> event_;
  Failure failure_;
};

Napi::Value queue(Wait *wait) {
  const Napi::Promise promise = wait->promise();
  wait->Queue();
  return promise;
}

// A block of pinned memory, between the host's and a device's.
class Staging {
 public:
  Staging(const lily_backend &backend, int32_t device, size_t bytes, lily_stream stream)
      : pool_(caching_pool(backend, device, MemoryKind::kPinned)),
        bytes_(bytes),
        stream_(stream),
        data_(pool_.take(bytes, stream)) {}
  Staging(const Staging &) = delete;
  Staging &operator=(const Staging &) = delete;
  ~Staging() {
    if (data_ != nullptr) pool_.give_back(data_, bytes_, stream_, idle_);
  }

  void *data() const { return data_; }
  void set_idle() { idle_ = true; }

 private:
  CachingPool &pool_;
  const size_t bytes_;
  const lily_stream stream_;
  void *const data_;
  bool idle_ = false;
};

class Download : public Wait {
 public:
  Download(Napi::Env env, Shared<EventState> event, std::unique_ptr<Staging> staging, const Napi::Object &destination,
           void *data, size_t bytes)
      : Wait(env, std::move(event)),
        staging_(std::move(staging)),
        destination_(Napi::Persistent(destination)),
        data_(data),
        bytes_(bytes) {}

 protected:
  void passed() override {
    memcpy(data_, staging_->data(), bytes_);
    staging_->set_idle();
  }

 private:
  std::unique_ptr<Staging> staging_;
  Napi::ObjectReference destination_;  // keeps its memory
  void *const data_;
  const size_t bytes_;
};

// ---- Memory ----

// (bytes, stream) -> memory of its device
Napi::Value memory_allocate(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  const Shared<Stream> &home = argument<StreamHandle>(info, 1).stream;
  const size_t bytes = static_cast<size_t>(number(info, 0));
  auto memory = std::make_unique<Memory>(backend, home, bytes);
  if (memory->data == nullptr) throw out_of_memory(info.Env(), backend, "device memory", bytes);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
  return wrap(info.Env(), std::move(memory));
}

Napi::Value memory_address(const Napi::CallbackInfo &info) {
  const Memory &memory = argument<Memory>(info, 0);
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(memory.data)));
}

void memory_release(const Napi::CallbackInfo &info) { argument<Memory>(info, 0).release(info.Env()); }

// (device, memory, offset, typed array, stream): what is written was read before it returns.
void upload(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  const auto source = info[3].As<Napi::TypedArray>();
  const size_t bytes = source.ByteLength();
  void *destination =
      device_memory_of(env, device, info[1], number(info, 2), static_cast<int64_t>(bytes), "destination");
  if (bytes == 0) return;
  const void *data = array_memory(env, source, static_cast<int64_t>(bytes), 1, "data");
  const lily_stream stream = stream_number(info, 4);
  const Staging staging(backend, device, bytes, stream);
  if (staging.data() != nullptr) data = memcpy(staging.data(), data, bytes);
  // Without pinned memory CUDA stages it by itself, and waits for the stream while it does. A record would read it
  // later.
  else if (caching_pool(backend, device, MemoryKind::kPinned).is_recording(stream)) {
    throw out_of_memory(env, backend, "pinned memory", bytes);
  }
  check(env, backend, backend.copy(device, destination, data, bytes, stream));
}

// (device, memory, offset, typed array, stream) -> promise
Napi::Value download(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  const auto destination = info[3].As<Napi::TypedArray>();
  const size_t bytes = destination.ByteLength();
  const void *source = device_memory_of(env, device, info[1], number(info, 2), static_cast<int64_t>(bytes), "source");
  void *data = array_memory(env, destination, static_cast<int64_t>(bytes), 1, "data");
  const lily_stream stream = stream_number(info, 4);
  auto event = Shared<EventState>::make(env, backend, device, false);
  auto staging = std::make_unique<Staging>(backend, device, bytes, stream);
  if (staging->data() == nullptr) throw out_of_memory(env, backend, "pinned memory", bytes);
  if (bytes > 0) check(env, backend, backend.copy(device, staging->data(), source, bytes, stream));
  event->record(env, stream);
  return queue(new Download(env, std::move(event), std::move(staging), destination, data, bytes));
}

// (device, destination, offset, source device, source, offset, bytes, stream)
void copy(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  const int64_t bytes = number(info, 6);
  void *destination = device_memory_of(env, device, info[1], number(info, 2), bytes, "destination");
  const void *source = device_memory_of(env, device_number(info, 3), info[4], number(info, 5), bytes, "source");
  if (bytes == 0) return;
  check(env, backend, backend.copy(device, destination, source, static_cast<size_t>(bytes), stream_number(info, 7)));
}

// (device, memory, offset, bytes, value, stream)
void fill(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  const int64_t bytes = number(info, 3);
  void *destination = device_memory_of(env, device, info[1], number(info, 2), bytes, "destination");
  if (bytes == 0) return;
  check(env, backend,
        backend.fill(device, destination, static_cast<uint8_t>(number(info, 4)), static_cast<size_t>(bytes),
                     stream_number(info, 5)));
}

// ---- Streams ----

Napi::Value stream_own(const Napi::CallbackInfo &info) {
  auto stream = Stream::own(info.Env(), cuda(info.Env()), device_number(info, 0));
  return wrap(info.Env(), std::make_unique<StreamHandle>(std::move(stream)));
}

Napi::Value stream_create(const Napi::CallbackInfo &info) {
  auto stream = Stream::create(info.Env(), cuda(info.Env()), device_number(info, 0));
  return wrap(info.Env(), std::make_unique<StreamHandle>(std::move(stream)));
}

Napi::Value stream_handle(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(argument<StreamHandle>(info, 0).stream->handle()));
}

void stream_destroy(const Napi::CallbackInfo &info) {
  check(info.Env(), cuda(info.Env()), argument<StreamHandle>(info, 0).stream->end());
}

// (device, first, device, then): what `then` is given from now on comes after what `first` has been given.
void stream_order(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  const EventState event(info.Env(), backend, device_number(info, 0), false);
  event.record(info.Env(), stream_number(info, 1));
  check(info.Env(), backend, backend.stream_wait_event(device_number(info, 2), stream_number(info, 3), event.event));
}

// (device, stream) -> promise
Napi::Value stream_wait(const Napi::CallbackInfo &info) {
  auto event = Shared<EventState>::make(info.Env(), cuda(info.Env()), device_number(info, 0), false);
  event->record(info.Env(), stream_number(info, 1));
  return queue(new Wait(info.Env(), std::move(event)));
}

// ---- Events ----

const Shared<EventState> &event_argument(const Napi::CallbackInfo &info, size_t index) {
  const EventHandle &handle = argument<EventHandle>(info, index);
  if (handle.state != nullptr) return handle.state;
  throw make_error(info.Env(), "ERR_LILY_DISPOSED", "the event has been disposed of");
}

Napi::Value event_create(const Napi::CallbackInfo &info) {
  auto state = Shared<EventState>::make(info.Env(), cuda(info.Env()), device_number(info, 0), true);
  return wrap(info.Env(), std::make_unique<EventHandle>(std::move(state)));
}

void event_destroy(const Napi::CallbackInfo &info) { argument<EventHandle>(info, 0).release(info.Env()); }

void event_record(const Napi::CallbackInfo &info) {
  event_argument(info, 0)->record(info.Env(), stream_number(info, 1));
}

Napi::Value event_query(const Napi::CallbackInfo &info) {
  const EventState &event = *event_argument(info, 0);
  int32_t ready = 0;
  check(info.Env(), event.backend, event.backend.event_query(event.device, event.event, &ready));
  return Napi::Boolean::New(info.Env(), ready != 0);
}

Napi::Value event_wait(const Napi::CallbackInfo &info) { return queue(new Wait(info.Env(), event_argument(info, 0))); }

// (start, end) -> milliseconds
Napi::Value event_elapsed(const Napi::CallbackInfo &info) {
  const EventState &start = *event_argument(info, 0), &end = *event_argument(info, 1);
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

// ---- Graphs ----

// (stream)
void capture_begin(const Napi::CallbackInfo &info) {
  check(info.Env(), cuda(info.Env()), argument<StreamHandle>(info, 0).stream->begin_capture());
}

// (stream) -> graph
Napi::Value capture_end(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  Stream &stream = *argument<StreamHandle>(info, 0).stream;
  lily_graph graph = 0;
  check(info.Env(), backend, stream.end_capture(&graph));
  return wrap(info.Env(), std::make_unique<GraphHandle>(backend, stream.device(), graph));
}

// (graph, stream)
void graph_launch(const Napi::CallbackInfo &info) {
  const GraphHandle &handle = argument<GraphHandle>(info, 0);
  if (handle.graph == 0) throw make_error(info.Env(), "ERR_LILY_DISPOSED", "the graph has been disposed of");
  check(info.Env(), handle.backend, handle.backend.graph_launch(handle.device, handle.graph, stream_number(info, 1)));
}

void graph_destroy(const Napi::CallbackInfo &info) {
  GraphHandle &handle = argument<GraphHandle>(info, 0);
  check(info.Env(), handle.backend, handle.destroy());
}

// ---- Pools ----

// (backend, device, pinned)
Napi::Value pool_statistics(const Napi::CallbackInfo &info) {
  const lily_backend *backend = backend_by_number(info[0].As<Napi::Number>().DoubleValue());
  if (backend == nullptr) throw make_error(info.Env(), "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  const MemoryKind kind = info[2].ToBoolean() ? MemoryKind::kPinned : MemoryKind::kDevice;
  const PoolStatistics found = caching_pool(*backend, device_number(info, 1), kind).statistics();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("bytesInUse", static_cast<double>(found.bytes_in_use));
  result.Set("bytesCached", static_cast<double>(found.bytes_kept));
  result.Set("peakBytesInUse", static_cast<double>(found.peak_bytes_in_use));
  result.Set("blocksInUse", static_cast<double>(found.blocks_in_use));
  result.Set("blocksCached", static_cast<double>(found.blocks_kept));
  result.Set("allocations", static_cast<double>(found.allocations));
  return result;
}

void empty_cache(const Napi::CallbackInfo &) {
  empty_pools(*lily_cpu_backend());
  if (opened_cuda_backend() != nullptr) empty_pools(*opened_cuda_backend());
}

// ---- The life of all ----

std::mutex own_streams_mutex;

std::map<int32_t, Shared<Stream>> &own_streams() {
  static auto *const streams = new std::map<int32_t, Shared<Stream>>;
  return *streams;
}

std::mutex environments_mutex;
int environments = 0;

}  // namespace

Shared<Stream> Stream::own(Napi::Env env, const lily_backend &backend, int32_t device) {
  const std::lock_guard<std::mutex> lock(own_streams_mutex);
  Shared<Stream> &stream = own_streams()[device];
  if (stream == nullptr) {
    lily_stream handle = 0;
    check(env, backend, backend.stream_default(device, &handle));
    stream = Shared<Stream>::make(backend, device, handle, nullptr);
  }
  return stream;
}

Shared<Stream> Stream::create(Napi::Env env, const lily_backend &backend, int32_t device) {
  Shared<Stream> heir = own(env, backend, device);
  lily_stream handle = 0;
  check(env, backend, backend.stream_create(device, &handle));
  return Shared<Stream>::make(backend, device, handle, std::move(heir));
}

lily_status Stream::begin_capture() {
  const lily_status status = backend_.capture_begin(device_, handle_);
  if (status != LILY_OK) return status;
  capturing_ = true;
  begin_capture_in_pools(backend_, device_, handle_);
  return LILY_OK;
}

lily_status Stream::end_capture(lily_graph *graph) {
  end_capture_in_pools(backend_, device_, handle_);
  const lily_status status = backend_.capture_end(device_, handle_, graph);
  capturing_ = false;
  return status;
}

lily_status Stream::end() {
  if (heir_ == nullptr || ended_) return LILY_OK;
  if (capturing_) {
    // A worker that was stopped in mid-capture. What is recorded is never run, and the heir must not become part of it.
    lily_graph graph = 0;
    if (end_capture(&graph) == LILY_OK) backend_.graph_destroy(device_, graph);
  }
  lily_event event = 0;
  lily_status status = backend_.event_create(device_, 0, &event);
  if (status == LILY_OK) {
    status = backend_.event_record(device_, event, handle_);
    if (status == LILY_OK) status = backend_.stream_wait_event(device_, heir_->handle(), event);
    backend_.event_destroy(device_, event);
  }
  ended_ = true;
  hand_over_pools(backend_, device_, handle_, heir_->handle());
  const lily_status destroyed = backend_.stream_destroy(device_, handle_);
  return status != LILY_OK ? status : destroyed;
}

void *device_memory_of(Napi::Env env, int32_t device, napi_value value, int64_t offset, int64_t bytes,
                       const char *name) {
  if (const Memory *memory = unwrap<Memory>(env, value)) {
    if (memory->data == nullptr) throw argument_error(env, "ERR_LILY_DISPOSED", name, "its memory has been released");
    if (memory->home->device() != device) {
      throw argument_error(env, "ERR_LILY_DEVICE", name, "its memory is of another device");
    }
    const bool fits = bytes >= 0 && offset >= 0 && static_cast<uint64_t>(offset) <= memory->bytes &&
                      static_cast<uint64_t>(bytes) <= memory->bytes - static_cast<uint64_t>(offset);
    if (!fits) {
      throw argument_error(env, "ERR_LILY_SHAPE", name,
                           "there are no " + std::to_string(bytes) + " bytes from offset " + std::to_string(offset) +
                               " in memory of " + std::to_string(memory->bytes));
    }
    return static_cast<char *>(memory->data) + offset;
  }
  napi_valuetype type;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_bigint) {
    throw argument_error(env, "ERR_LILY_DEVICE", name, "expected memory of a device");
  }
  bool lossless = false;
  const uint64_t address = Napi::BigInt(env, value).Uint64Value(&lossless);
  uint64_t begin = 0;
  if (!lossless || bytes < 0 || offset < 0 || __builtin_add_overflow(address, static_cast<uint64_t>(offset), &begin) ||
      begin + static_cast<uint64_t>(bytes) < begin) {
    throw argument_error(env, "ERR_LILY_ARGUMENT", name, "its ptr is not an address");
  }
  char *data = reinterpret_cast<char *>(static_cast<uintptr_t>(begin));
  // Nothing of an empty operand is touched, but NULL means absent to the ABI.
  if (bytes == 0 && data == nullptr) return reinterpret_cast<char *>(uintptr_t{64});
  return data;
}

Environment::Environment() {
  const std::lock_guard<std::mutex> lock(environments_mutex);
  ++environments;
}

Environment::~Environment() {
  const std::lock_guard<std::mutex> lock(environments_mutex);
  if (--environments > 0 || opened_cuda_backend() == nullptr) return;
  const lily_backend &backend = *opened_cuda_backend();
  empty_pools(backend);
  {
    const std::lock_guard<std::mutex> streams_lock(own_streams_mutex);
    own_streams().clear();
  }
  backend.close();
}

void add_device_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("memoryAllocate", Napi::Function::New<memory_allocate>(env));
  exports.Set("memoryAddress", Napi::Function::New<memory_address>(env));
  exports.Set("memoryRelease", Napi::Function::New<memory_release>(env));
  exports.Set("checkPointer", Napi::Function::New<check_pointer>(env));
  exports.Set("upload", Napi::Function::New<upload>(env));
  exports.Set("download", Napi::Function::New<download>(env));
  exports.Set("copy", Napi::Function::New<copy>(env));
  exports.Set("fill", Napi::Function::New<fill>(env));
  exports.Set("streamOwn", Napi::Function::New<stream_own>(env));
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
  exports.Set("captureBegin", Napi::Function::New<capture_begin>(env));
  exports.Set("captureEnd", Napi::Function::New<capture_end>(env));
  exports.Set("graphLaunch", Napi::Function::New<graph_launch>(env));
  exports.Set("graphDestroy", Napi::Function::New<graph_destroy>(env));
  exports.Set("poolStatistics", Napi::Function::New<pool_statistics>(env));
  exports.Set("emptyCache", Napi::Function::New<empty_cache>(env));
}

}  // namespace lily::napi
