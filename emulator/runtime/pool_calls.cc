// Stream-ordered memory allocation.
#include "runtime/call.h"
#include "runtime/default_stream.h"
#include "runtime/device.h"
#include "runtime/memory.h"
#include "runtime/pool.h"
#include "runtime/unordered.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaError_t allocate_in(cudaStream_t handle, void **pointer, size_t bytes, cudaMemPool_t pool) {
  return with_stream(handle, [&](Stream &stream) {
    if (stream.capture) return reject_memory_node(stream);
    const int index = pool != nullptr ? pool_device(pool) : stream.device;
    if (index < 0 || pointer == nullptr) return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    *pointer = allocate(bytes, MemoryKind::kDevice, index);
    // Queued frees release memory, as in the driver's pool when it is exhausted.
    if (*pointer == nullptr && synchronize(stream) == cudaSuccess)
      *pointer = allocate(bytes, MemoryKind::kDevice, index);
    return *pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}

}  // namespace

extern "C" {

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream) {
  return call(__func__, [&] { return allocate_in(stream, pointer, bytes, nullptr); });
}

cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return call(__func__, [&] { return allocate_in(stream, pointer, bytes, pool); });
}

// The memory is freed when the stream reaches this point. Access in another stream that is not ordered before it is a
// use after free.
cudaError_t cudaFreeAsync(void *pointer, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) {
      if (pointer == nullptr) return cudaErrorInvalidValue;
      if (stream.capture) return reject_memory_node(stream);
      if (!can_release(pointer, stream.device)) return cudaErrorInvalidValue;
      const int index = stream.device;
      return enqueue(stream, {.name = "a free", .run = [=] {
                                if (const auto found = device_memory().find(pointer))
                                  note_written(pointer, found->size);
                                release(pointer, index);
                              }});
    });
  });
}

}  // extern "C"
