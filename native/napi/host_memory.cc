// Where memory of the host lies, and where results lie in it.
#include <string.h>

#include <string>

#include "napi/exports.h"
#include "napi/values.h"
#include "system/memory.h"

namespace lily::napi {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kPage = 4096;
constexpr int64_t kLarge = 4 << 20;  // as in NumPy

char *round_up(char *address, int64_t alignment) {
  return address + (-reinterpret_cast<uintptr_t>(address) & static_cast<uintptr_t>(alignment - 1));
}

}  // namespace

// Several SharedArrayBuffers can be objects of the same memory, which only addresses show.
// (typed array) -> number
Napi::Value host_address(const Napi::CallbackInfo &info) {
  const void *data = array_memory(info.Env(), info[0], 0, 1, "array");
  return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(data)));
}

// Places a block of `bytes` bytes in an array that is larger by a cache line, and zeroes the rest of it: an array whose
// contents are undefined shows what the memory was before. Typed arrays begin 16 bytes after a line, so that every
// vector of 64 bytes would lie in two. Memory that is new consists of huge pages where it is large: their faults take a
// tenth of the time.
//
// (typed array, bytes) -> offset of the block
Napi::Value place_host_block(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const int64_t bytes = whole_number(env, double_argument(info, 1), 0, binding::kMaxBytes, "bytes");
  size_t size = 0;
  auto *const memory = static_cast<char *>(array_bytes(env, info[0], &size, "memory"));
  if (size < static_cast<uint64_t>(bytes + kLine)) {
    throw make_error(env, "ERR_LILY_ARGUMENT",
                     "no block of " + std::to_string(bytes) + " bytes in " + std::to_string(size) + " bytes");
  }
  char *const block = round_up(memory, kLine);
  memset(memory, 0, static_cast<size_t>(block - memory));
  memset(block + bytes, 0, size - static_cast<size_t>(block + bytes - memory));
  [[maybe_unused]] static const bool keeps = (system::keep_freed_memory(), true);
  if (bytes >= kLarge) {
    char *const first = round_up(block - kPage + 1, kPage), *const last = round_up(block + bytes, kPage);
    system::advise_huge_pages(first, static_cast<size_t>(last - first));
  }
  return Napi::Number::New(env, static_cast<double>(block - memory));
}

}  // namespace lily::napi
