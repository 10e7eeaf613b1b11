// Device memory: allocation, release, and checks of addresses that the caller gives.
#include "napi/backends.h"
#include "napi/exports.h"
#include "napi/handles.h"

namespace lily::napi {
namespace {

// (bytes, stream) -> memory of the stream's device
Napi::Value memory_allocate(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  const Shared<Stream> &stream = argument<StreamHandle>(info, 1).stream;
  const size_t bytes = static_cast<size_t>(number(info, 0));
  auto memory = std::make_unique<Memory>(backend, stream, bytes);
  if (memory->data == nullptr) throw out_of_memory(info.Env(), backend, "device memory", bytes);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
  return wrap(info.Env(), std::move(memory));
}

// (memory) -> BigInt
Napi::Value memory_address(const Napi::CallbackInfo &info) {
  const Memory &memory = argument<Memory>(info, 0);
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(memory.data)));
}

// (memory)
void memory_release(const Napi::CallbackInfo &info) { argument<Memory>(info, 0).release(info.Env()); }

const char *kind_name(int32_t kind) {
  switch (kind) {
    case LILY_MEMORY_DEVICE: return "device memory";
    case LILY_MEMORY_MANAGED: return "managed memory";
    case LILY_MEMORY_PINNED: return "pinned memory of the host";
    default: return "memory of the host, or not allocated";
  }
}

// (device, address, bytes, name): checks the first and the last byte of memory that the package does not own.
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

}  // namespace

void add_memory_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("memoryAllocate", Napi::Function::New<memory_allocate>(env));
  exports.Set("memoryAddress", Napi::Function::New<memory_address>(env));
  exports.Set("memoryRelease", Napi::Function::New<memory_release>(env));
  exports.Set("checkPointer", Napi::Function::New<check_pointer>(env));
}

}  // namespace lily::napi
