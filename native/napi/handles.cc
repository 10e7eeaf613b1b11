// Device memory from handles and addresses.
#include "napi/handles.h"

#include <mutex>
#include <unordered_set>

#include "napi/values.h"

namespace lily::napi {
namespace {

// Never destroyed: finalizers of the addon can run late.
std::mutex &handles_mutex() {
  static std::mutex *const mutex = new std::mutex;
  return *mutex;
}

std::unordered_set<const void *> &handles() {
  static auto *const handles = new std::unordered_set<const void *>;
  return *handles;
}

void *memory_of_handle(Napi::Env env, int32_t device, const Memory &memory, int64_t offset, int64_t bytes,
                       const char *name) {
  if (memory.data == nullptr) throw argument_error(env, "ERR_LILY_DISPOSED", name, "its memory has been released");
  if (memory.stream->device() != device) {
    throw argument_error(env, "ERR_LILY_DEVICE", name, "its memory is of another device");
  }
  const bool fits = bytes >= 0 && offset >= 0 && static_cast<uint64_t>(offset) <= memory.bytes &&
                    static_cast<uint64_t>(bytes) <= memory.bytes - static_cast<uint64_t>(offset);
  if (fits) return static_cast<char *>(memory.data) + offset;
  throw argument_error(env, "ERR_LILY_SHAPE", name,
                       "there are no " + std::to_string(bytes) + " bytes from offset " + std::to_string(offset) +
                           " in memory of " + std::to_string(memory.bytes));
}

const char *kind_name(int32_t kind) {
  switch (kind) {
    case LILY_MEMORY_DEVICE: return "device memory";
    case LILY_MEMORY_MANAGED: return "managed memory";
    case LILY_MEMORY_PINNED: return "pinned memory of the host";
    default: return "memory of the host, or not allocated";
  }
}

// Throws unless the first and the last of `bytes` bytes are memory of the device.
void check_address(Napi::Env env, int32_t device, const char *begin, int64_t bytes, const char *name) {
  const lily_backend &backend = cuda(env);
  for (const int64_t at : {int64_t{0}, bytes - 1}) {
    lily_pointer_info found;
    check(env, backend, backend.pointer_info(device, begin + at, &found));
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

Handle::Handle(Kind kind) : kind(kind) {
  const std::lock_guard<std::mutex> lock(handles_mutex());
  handles().insert(this);
}

Handle::~Handle() {
  const std::lock_guard<std::mutex> lock(handles_mutex());
  handles().erase(this);
}

bool is_handle(const void *data) {
  const std::lock_guard<std::mutex> lock(handles_mutex());
  return handles().count(data) > 0;
}

int64_t number(const Napi::CallbackInfo &info, size_t index, int64_t most) {
  static constexpr const char *kNames[] = {"argument 1", "argument 2", "argument 3", "argument 4",
                                           "argument 5", "argument 6", "argument 7", "argument 8"};
  return whole_number(info.Env(), double_argument(info, index), 0, most, kNames[index]);
}

lily_stream stream_number(const Napi::CallbackInfo &info, size_t index) {
  return static_cast<lily_stream>(number(info, index));
}

int32_t device_number(const Napi::CallbackInfo &info, size_t index) {
  return usable_device_of(info.Env(), cuda(info.Env()), double_argument(info, index));
}

const lily_backend &cuda(Napi::Env env) { return available_backend(env, 1); }

void *device_memory_of(Napi::Env env, int32_t device, napi_value value, int64_t offset, int64_t bytes,
                       const char *name) {
  if (const Memory *memory = unwrap<Memory>(env, value)) {
    return memory_of_handle(env, device, *memory, offset, bytes, name);
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
  if (bytes > 0) check_address(env, device, data, bytes, name);
  // No byte of an empty operand is accessed, but in the ABI NULL means that the operand is absent.
  if (bytes == 0 && data == nullptr) return reinterpret_cast<char *>(uintptr_t{64});
  return data;
}

}  // namespace lily::napi
