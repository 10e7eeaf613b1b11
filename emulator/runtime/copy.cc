#include "runtime/copy.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "runtime/capture.h"
#include "runtime/findings.h"
#include "runtime/memory.h"
#include "runtime/unordered.h"

namespace lily::emulator::runtime {
namespace {

size_t extent(size_t pitch, size_t width, size_t height) { return height == 0 ? 0 : pitch * (height - 1) + width; }

enum class Side { kDevice, kPinned, kPageable };

Side side_of(const void *pointer) {
  const auto found = device_memory().find(pointer);
  // Freed memory counts as device memory, so that the use after free is reported later instead of a copy from host
  // memory.
  if (found == nullptr) return device_memory().find_freed(pointer) == nullptr ? Side::kPageable : Side::kDevice;
  return is_host_pinned(pointer) ? Side::kPinned : Side::kDevice;
}

bool direction_fits(cudaMemcpyKind kind, Side to, Side from) {
  const bool managed_or_device_to = to == Side::kDevice;
  const bool managed_or_device_from = from == Side::kDevice;
  switch (kind) {
    case cudaMemcpyHostToHost:
    case cudaMemcpyDefault: return true;
    case cudaMemcpyHostToDevice: return managed_or_device_to || to == Side::kPinned;
    case cudaMemcpyDeviceToHost: return managed_or_device_from || from == Side::kPinned;
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

}  // namespace

cudaError_t copy(Stream &stream, Rectangle r, bool wait) {
  if (r.width == 0 || r.height == 0) return cudaSuccess;
  if (r.to == nullptr || r.from == nullptr) return cudaErrorInvalidValue;
  if (r.height > 1 && (r.to_pitch < r.width || r.from_pitch < r.width)) return cudaErrorInvalidPitchValue;
  const Side to = side_of(r.to), from = side_of(r.from);
  if (!direction_fits(r.kind, to, from)) return cudaErrorInvalidValue;
  if (wait && stream.capture) return check_not_capturing(stream);
  if (!check_rectangle(r, stream.device)) return cudaErrorInvalidValue;

  std::shared_ptr<std::vector<char>> staged;
  if (from == Side::kPageable && !stream.capture) staged = stage(r);
  const int device = stream.device;
  const auto run = [r, staged, device] {
    if (check_rectangle(r, device)) copy_now(r);
  };
  const cudaError_t error = enqueue(stream, {.name = "a copy", .run = run, .node = cudaGraphNodeTypeMemcpy});
  if (error != cudaSuccess || stream.capture) return error;
  // A copy within the device never waits, and a copy from pageable memory already has its data. Every copy to pageable
  // memory waits.
  const bool within_device = to == Side::kDevice && from == Side::kDevice;
  const bool returns_early = within_device || staged != nullptr;
  if (to == Side::kPageable || (wait && !returns_early)) return synchronize(stream);
  return cudaSuccess;
}

cudaError_t fill(Stream &stream, void *to, size_t pitch, int value, size_t width, size_t height) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (height > 1 && pitch < width) return cudaErrorInvalidPitchValue;
  if (to == nullptr || side_of(to) == Side::kPageable) return cudaErrorInvalidValue;
  const size_t bytes = extent(pitch, width, height);
  const int device = stream.device;
  if (!check("a memset", to, bytes, device)) return cudaErrorInvalidValue;
  const auto run = [=] {
    if (!check("a memset", to, bytes, device)) return;
    for (size_t row = 0; row < height; ++row) {
      note_written(static_cast<char *>(to) + row * pitch, width);
      memset(static_cast<char *>(to) + row * pitch, value, width);
      device_memory().mark_initialised(static_cast<char *>(to) + row * pitch, width);
    }
  };
  return enqueue(stream, {.name = "a memset", .run = run, .node = cudaGraphNodeTypeMemset});
}

}  // namespace lily::emulator::runtime
