// Device memory from handles and addresses.
#include "napi/handles.h"

#include "napi/operands.h"

namespace lily::napi {
namespace {

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

}  // namespace

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
  // No byte of an empty operand is accessed, but in the ABI NULL means that the operand is absent.
  if (bytes == 0 && data == nullptr) return reinterpret_cast<char *>(uintptr_t{64});
  return data;
}

}  // namespace lily::napi
