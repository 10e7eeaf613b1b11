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

bool counts_on_device(MemoryKind kind) { return kind == MemoryKind::kDevice || kind == MemoryKind::kManaged; }

const char *name_of(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kDevice: return "device memory";
    case MemoryKind::kPinnedHost: return "pinned memory";
    case MemoryKind::kRegisteredHost: return "registered memory";
    case MemoryKind::kManaged: return "managed memory";
    case MemoryKind::kModuleVariable: return "a variable";
  }
  return "memory";
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

cudaMemoryType type_of(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kManaged: return cudaMemoryTypeManaged;
    case MemoryKind::kPinnedHost:
    case MemoryKind::kRegisteredHost: return cudaMemoryTypeHost;
    case MemoryKind::kDevice:
    case MemoryKind::kModuleVariable: break;
  }
  return cudaMemoryTypeDevice;
}

}  // namespace

void *allocate(size_t bytes, MemoryKind kind, int index) {
  Device &owner = device(index);
  if (counts_on_device(kind) && bytes > environment().memory_limit - owner.allocated) return nullptr;
  void *result = device_memory().allocate(bytes, kind, index, describe_call(name_of(kind)));
  if (result != nullptr && counts_on_device(kind)) owner.allocated += bytes;
  return result;
}

bool can_release(const void *pointer, int index) {
  const auto found = device_memory().find(pointer);
  if (found != nullptr) return found->base == pointer && found->kind != MemoryKind::kModuleVariable;
  const auto freed = device_memory().find_freed(pointer);
  if (freed != nullptr && freed->base == pointer) {
    report_and_fail(index, cudaErrorInvalidValue, {.kind = "double free", .text = freed->label + " is freed twice"});
  }
  return false;
}

bool release(void *pointer, int index) {
  if (!can_release(pointer, index)) return false;
  const auto found = device_memory().find(pointer);
  if (counts_on_device(found->kind)) device(found->device).allocated -= found->size;
  forget_accesses(found->id);
  return device_memory().release(pointer);
}

bool is_host_pinned(const void *pointer) {
  const auto found = device_memory().find(pointer);
  return found != nullptr && (found->kind == MemoryKind::kPinnedHost || found->kind == MemoryKind::kRegisteredHost);
}

std::vector<std::string> live_memory(int index) {
  std::vector<std::string> result;
  for (const auto &each : device_memory().live()) {
    if (each->device != index || each->kind == MemoryKind::kModuleVariable) continue;
    result.push_back(std::to_string(each->size) + " bytes of " + each->label);
  }
  return result;
}

void release_memory(int index) {
  for (const auto &each : device_memory().live()) {
    if (each->device == index && each->kind != MemoryKind::kModuleVariable) release(each->base, index);
  }
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  return call(__func__, [&] { return allocate_call(pointer, bytes, MemoryKind::kDevice); });
}

cudaError_t cudaMallocPitch(void **pointer, size_t *pitch, size_t width, size_t height) {
  return call(__func__, [&] {
    *pitch = (width + 511) / 512 * 512;  // the pitch of GPUs
    return allocate_call(pointer, *pitch * height, MemoryKind::kDevice);
  });
}

cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned flags) {
  return call(__func__, [&] {
    if (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost) return cudaErrorInvalidValue;
    return allocate_call(pointer, bytes, MemoryKind::kManaged);
  });
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

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned) {
  return call(__func__, [&] {
    if (pointer == nullptr || bytes == 0) return cudaErrorInvalidValue;
    if (device_memory().find(pointer) != nullptr) return cudaErrorHostMemoryAlreadyRegistered;
    const bool done = device_memory().adopt(pointer, bytes, MemoryKind::kRegisteredHost, current_device_index());
    return done ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered;
  });
}

cudaError_t cudaHostUnregister(void *pointer) {
  return call(__func__, [&] {
    const auto found = device_memory().find(pointer);
    if (found == nullptr || found->kind != MemoryKind::kRegisteredHost) return cudaErrorHostMemoryNotRegistered;
    return device_memory().release(pointer) ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
  });
}

cudaError_t cudaHostGetDevicePointer(void **result, void *pointer, unsigned flags) {
  return call(__func__, [&] {
    if (flags != 0 || !is_host_pinned(pointer)) return cudaErrorInvalidValue;
    *result = pointer;
    return cudaSuccess;
  });
}

cudaError_t cudaHostGetFlags(unsigned *flags, void *pointer) {
  return call(__func__, [&] {
    *flags = cudaHostAllocMapped;
    return is_host_pinned(pointer) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  return call(__func__, [&] {
    *total = environment().memory;
    *free = environment().memory_limit - current_device().allocated;
    return cudaSuccess;
  });
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
    attributes->type = type_of(found->kind);
    attributes->devicePointer = const_cast<void *>(pointer);
    if (attributes->type == cudaMemoryTypeDevice) attributes->hostPointer = nullptr;
    return cudaSuccess;
  });
}

}  // extern "C"
