// Copies and memsets, checked against the allocations when they are called and again when they run.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/findings.h"
#include "runtime/stream.h"
#include "runtime/unordered.h"

namespace lily::emulator::runtime {
namespace {

// A rectangle of bytes; the height is 1 for a one-dimensional copy.
struct Rectangle {
  void *to = nullptr;
  size_t to_pitch = 0;
  const void *from = nullptr;
  size_t from_pitch = 0;
  size_t width = 0, height = 1;
  cudaMemcpyKind kind = cudaMemcpyDefault;
};

size_t extent(size_t pitch, size_t width, size_t height) { return height == 0 ? 0 : pitch * (height - 1) + width; }

enum class Side { kDevice, kPinned, kPageable };

Side side_of(const void *pointer) {
  const auto found = device_memory().find(pointer);
  // Freed memory counts as device memory, so that the use after free is reported later instead of a copy from host
  // memory.
  if (found == nullptr) return device_memory().find_freed(pointer) == nullptr ? Side::kPageable : Side::kDevice;
  return found->kind == MemoryKind::kPinnedHost ? Side::kPinned : Side::kDevice;
}

bool direction_fits(cudaMemcpyKind kind, Side to, Side from) {
  switch (kind) {
    case cudaMemcpyHostToHost:
    case cudaMemcpyDefault: return true;
    case cudaMemcpyHostToDevice: return to != Side::kPageable;
    case cudaMemcpyDeviceToHost: return from != Side::kPageable;
    case cudaMemcpyDeviceToDevice: return to != Side::kPageable && from != Side::kPageable;
  }
  return false;
}

// True if all bytes are in one live allocation, or if none is in any (pageable memory, which is not tracked).
bool check(const char *what, const void *pointer, size_t bytes, int device) {
  if (bytes == 0) return true;
  const auto found = device_memory().find(pointer);
  if (found != nullptr && found->contains(reinterpret_cast<uint64_t>(pointer), bytes)) return true;
  if (found != nullptr) {
    const size_t offset = static_cast<const char *>(pointer) - found->base;
    report_and_fail(
        device, cudaErrorInvalidValue,
        {.kind = "out of bounds",
         .text = std::string(what) + " of " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                 " of " + std::to_string(found->size) + " bytes of " + found->label});
    return false;
  }
  const auto freed = device_memory().find_freed(pointer);
  if (freed == nullptr) return true;
  report_and_fail(
      device, cudaErrorIllegalAddress,
      {.kind = "use after free",
       .text = std::string(what) + " of " + std::to_string(bytes) + " bytes of freed memory, " + freed->label});
  return false;
}

bool check_rectangle(const Rectangle &r, int device) {
  return check("a copy to", r.to, extent(r.to_pitch, r.width, r.height), device) &&
         check("a copy from", r.from, extent(r.from_pitch, r.width, r.height), device);
}

void copy_now(const Rectangle &r) {
  for (size_t row = 0; row < r.height; ++row) {
    char *const to = static_cast<char *>(r.to) + row * r.to_pitch;
    const char *const from = static_cast<const char *>(r.from) + row * r.from_pitch;
    note_read(from, r.width);
    note_written(to, r.width);
    device_memory().copy(to, from, r.width);
  }
}

// Pageable memory is staged: its contents are read at the time of the call, and the copy runs later.
std::shared_ptr<std::vector<char>> stage(Rectangle &r) {
  auto staged = std::make_shared<std::vector<char>>(r.width * r.height);
  for (size_t row = 0; row < r.height; ++row) {
    memcpy(staged->data() + row * r.width, static_cast<const char *>(r.from) + row * r.from_pitch, r.width);
  }
  r.from = staged->data();
  r.from_pitch = r.width;
  return staged;
}

cudaError_t copy(Stream &stream, Rectangle r) {
  if (r.width == 0 || r.height == 0) return cudaSuccess;
  if (r.to == nullptr || r.from == nullptr) return cudaErrorInvalidValue;
  if (r.height > 1 && (r.to_pitch < r.width || r.from_pitch < r.width)) return cudaErrorInvalidPitchValue;
  const Side to = side_of(r.to), from = side_of(r.from);
  if (!direction_fits(r.kind, to, from)) return cudaErrorInvalidValue;
  if (!check_rectangle(r, stream.device)) return cudaErrorInvalidValue;

  std::shared_ptr<std::vector<char>> staged;
  if (from == Side::kPageable && !stream.capture) staged = stage(r);
  const int device = stream.device;
  const auto run = [r, staged, device] {
    if (check_rectangle(r, device)) copy_now(r);
  };
  const cudaError_t error = enqueue(stream, {.name = "a copy", .run = run});
  if (error != cudaSuccess || stream.capture) return error;
  // Every copy to pageable memory waits.
  return to == Side::kPageable ? synchronize(stream) : cudaSuccess;
}

cudaError_t fill(Stream &stream, void *to, int value, size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || side_of(to) == Side::kPageable) return cudaErrorInvalidValue;
  const int device = stream.device;
  if (!check("a memset", to, bytes, device)) return cudaErrorInvalidValue;
  const auto run = [=] {
    if (!check("a memset", to, bytes, device)) return;
    note_written(to, bytes);
    memset(to, value, bytes);
    device_memory().mark_initialised(to, bytes);
  };
  return enqueue(stream, {.name = "a memset", .run = run});
}

}  // namespace
}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(
        handle, [&](Stream &stream) { return copy(stream, {.to = to, .from = from, .width = bytes, .kind = kind}); });
  });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(
        handle, [&](Stream &stream) { return copy(stream, {to, to_pitch, from, from_pitch, width, height, kind}); });
  });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t handle) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return fill(stream, to, value, bytes); }); });
}

}  // extern "C"
