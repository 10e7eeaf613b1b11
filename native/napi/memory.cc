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

// (device, address, bytes, name): throws unless the memory is of the device.
void check_pointer(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const std::string name = info[3].As<Napi::String>();
  device_memory_of(env, device_number(info, 0), info[1], 0, number(info, 2), name.c_str());
}

}  // namespace

void add_memory_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("memoryAllocate", Napi::Function::New<memory_allocate>(env));
  exports.Set("memoryAddress", Napi::Function::New<memory_address>(env));
  exports.Set("memoryRelease", Napi::Function::New<memory_release>(env));
  exports.Set("checkPointer", Napi::Function::New<check_pointer>(env));
}

}  // namespace lily::napi
