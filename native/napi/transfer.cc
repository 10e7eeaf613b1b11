// Copies between the host and a device, through pinned memory, and copies and fills on devices.
#include <string.h>

#include "napi/exports.h"
#include "napi/handles.h"
#include "napi/values.h"
#include "napi/waits.h"

namespace lily::napi {
namespace {

// The staging buffer of a copy between pageable host memory and a device, in pinned memory. Throws if the device is not
// ready: a reset unmaps the memory.
PooledBlock staging_block(Napi::Env env, const lily_backend &backend, int32_t device, size_t bytes,
                          lily_stream stream) {
  check(env, backend, backend.device_ready(device));
  return PooledBlock(caching_pool(backend, device, MemoryKind::kPinned), bytes, stream);
}

class Download : public Wait {
 public:
  Download(Napi::Env env, Shared<Event> event, PooledBlock staging, const Napi::Object &destination, size_t bytes)
      : Wait(env, std::move(event)),
        staging_(std::move(staging)),
        destination_(Napi::Persistent(destination)),
        bytes_(bytes) {}

 protected:
  // Only this thread knows whether the memory is still there.
  void passed(Napi::Env env) override {
    staging_.set_idle();
    size_t bytes = 0;
    void *const data = array_bytes(env, destination_.Value(), &bytes, "into");
    if (bytes != bytes_) {
      throw argument_error(env, "ERR_LILY_ARGUMENT", "into",
                           "its ArrayBuffer was transferred before the promise was settled, so the result is invalid; "
                           "transfer it afterwards");
    }
    if (bytes > 0) memcpy(data, staging_.data(), bytes);
  }

 private:
  PooledBlock staging_;
  Napi::ObjectReference destination_;
  const size_t bytes_;
};

// (device, memory, offset, typed array, stream): the function returns after it has read the array.
void upload(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  size_t bytes = 0;
  const void *data = array_bytes(env, info[3], &bytes, "data");
  void *destination =
      device_memory_of(env, device, info[1], number(info, 2), static_cast<int64_t>(bytes), "destination");
  if (bytes == 0) return;
  const lily_stream stream = stream_number(info, 4);
  const PooledBlock staging = staging_block(env, backend, device, bytes, stream);
  if (staging.data() != nullptr) {
    data = memcpy(staging.data(), data, bytes);
  } else if (caching_pool(backend, device, MemoryKind::kPinned).is_recording(stream)) {
    // Without pinned memory CUDA stages the copy itself and synchronizes with the stream. A graph would read the array
    // at each launch.
    throw out_of_memory(env, backend, "pinned memory", bytes);
  }
  check(env, backend, backend.copy(device, destination, data, bytes, stream));
}

// (device, memory, offset, typed array, stream) -> promise
Napi::Value download(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const lily_backend &backend = cuda(env);
  const int32_t device = device_number(info, 0);
  size_t bytes = 0;
  array_bytes(env, info[3], &bytes, "data");
  const void *source = device_memory_of(env, device, info[1], number(info, 2), static_cast<int64_t>(bytes), "source");
  const lily_stream stream = stream_number(info, 4);
  PooledBlock staging = staging_block(env, backend, device, bytes, stream);
  auto event = Shared<Event>::make(env, backend, device, false);
  if (staging.data() == nullptr) throw out_of_memory(env, backend, "pinned memory", bytes);
  if (bytes > 0) check(env, backend, backend.copy(device, staging.data(), source, bytes, stream));
  event->record(env, stream);
  return Wait::start(
      std::make_unique<Download>(env, std::move(event), std::move(staging), info[3].As<Napi::Object>(), bytes));
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
        backend.fill(device, destination, static_cast<uint8_t>(number(info, 4, 255)), static_cast<size_t>(bytes),
                     stream_number(info, 5)));
}

}  // namespace

void add_transfer_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("upload", Napi::Function::New<upload>(env));
  exports.Set("download", Napi::Function::New<download>(env));
  exports.Set("copy", Napi::Function::New<copy>(env));
  exports.Set("fill", Napi::Function::New<fill>(env));
}

}  // namespace lily::napi
