#include "runtime/memory.h"

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/leaks.h"
#include "runtime/unordered.h"

namespace lily::emulator::runtime {
namespace {

// Null if the device's limit is reached or the host is out of memory.
void *allocate(size_t bytes, MemoryKind kind, int index) {
  const bool on_device = kind == MemoryKind::kDevice;
  Device &owner = device(index);
  if (on_device && bytes > environment().memory_limit - owner.allocated) return nullptr;
  void *result =
      device_memory().allocate(bytes, kind, index, describe_call(on_device ? "device memory" : "pinned memory"));
  if (result != nullptr && on_device) owner.allocated += bytes;
  return result;
}

bool release(void *pointer, int index) {
  const auto found = device_memory().find(pointer);
  if (found != nullptr && found->base == pointer) {
    if (found->kind == MemoryKind::kDevice) device(found->device).allocated -= found->size;
    forget_accesses(found->id);
    return device_memory().release(pointer);
  }
  const auto freed = device_memory().find_freed(pointer);
  if (found == nullptr && freed != nullptr && freed->base == pointer)
    report_and_fail(index, cudaErrorInvalidValue, {.kind = "double free", .text = freed->label + " is freed twice"});
  return false;
}

cudaError_t allocate_call(void **result, size_t bytes, MemoryKind kind) {
  if (result == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t error = check_unsafe_call()) return error;
  *result = nullptr;
  if (bytes == 0) return cudaSuccess;
  *result = allocate(bytes, kind, current_device_index());
  if (*result == nullptr) return cudaErrorMemoryAllocation;
  // The host may write this memory without a runtime call.
  if (kind != MemoryKind::kDevice) device_memory().mark_initialised(*result, bytes);
  return cudaSuccess;
}

// Does not wait for queued work, because CUDA does not guarantee that it waits. A kernel that still uses the memory is
// reported as a use after free.
cudaError_t free_call(void *pointer, bool host) {
  if (const cudaError_t error = check_unsafe_call()) return error;
  if (pointer == nullptr) return cudaSuccess;
  const auto found = device_memory().find(pointer);
  if (found != nullptr && (found->kind == MemoryKind::kPinnedHost) != host) return cudaErrorInvalidValue;
  return release(pointer, current_device_index()) ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

std::vector<std::string> live_memory(int index) {
  std::vector<std::string> result;
  for (const auto &each : device_memory().live()) {
    if (each->device != index) continue;
    result.push_back(std::to_string(each->size) + " bytes of " + each->label);
  }
  return result;
}

void release_memory(int index) {
  for (const auto &each : device_memory().live()) {
    if (each->device == index) release(each->base, index);
  }
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  return call(__func__, [&] { return allocate_call(pointer, bytes, MemoryKind::kDevice); });
}

cudaError_t cudaFree(void *pointer) {
  return call(__func__, [&] { return free_call(pointer, false); });
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) {
  return call(__func__, [&] { return allocate_call(pointer, bytes, MemoryKind::kPinnedHost); });
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
  return call(__func__, [&] { return allocate_call(pointer, bytes, MemoryKind::kPinnedHost); });
}

cudaError_t cudaFreeHost(void *pointer) {
  return call(__func__, [&] { return free_call(pointer, true); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer) {
  return call(__func__, [&] {
    *attributes = {};
    attributes->device = cudaInvalidDeviceId;
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->hostPointer = const_cast<void *>(pointer);
    const auto found = device_memory().find(pointer);
    if (found == nullptr) return cudaSuccess;
    attributes->device = found->device;
    attributes->type = found->kind == MemoryKind::kDevice ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    attributes->devicePointer = const_cast<void *>(pointer);
    if (attributes->type == cudaMemoryTypeDevice) attributes->hostPointer = nullptr;
    return cudaSuccess;
  });
}

}  // extern "C"
