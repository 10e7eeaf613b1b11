#include "runtime/pool.h"

#include <cstdint>
#include <cstdio>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/findings.h"

namespace lily::emulator::runtime {
namespace {

struct Pool {
  uint64_t release_threshold = 0;
};

std::vector<Pool> &pools() {
  static auto *const pools = new std::vector<Pool>(device_count());
  return *pools;
}

cudaError_t get_pool(cudaMemPool_t *pool, int index) {
  if (!is_device(index)) return cudaErrorInvalidDevice;
  *pool = reinterpret_cast<cudaMemPool_t>(&pools()[index]);
  return cudaSuccess;
}

// Gets or sets an attribute. Memory whose free is queued but has not run counts as used.
cudaError_t attribute(cudaMemPool_t pool, cudaMemPoolAttr which, void *value, bool set) {
  const int index = pool_device(pool);
  if (index < 0) return cudaErrorInvalidValue;
  switch (which) {
    case cudaMemPoolAttrReleaseThreshold: {
      uint64_t &threshold = pools()[index].release_threshold;
      uint64_t &given = *static_cast<uint64_t *>(value);
      (set ? threshold : given) = set ? given : threshold;
      return cudaSuccess;
    }
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      if (!set) *static_cast<int *>(value) = 1;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemCurrent:
    case cudaMemPoolAttrUsedMemCurrent:
      if (set) return cudaErrorInvalidValue;
      *static_cast<uint64_t *>(value) = device(index).allocated;
      return cudaSuccess;
    default: return cudaErrorNotSupported;
  }
}

}  // namespace

int pool_device(cudaMemPool_t pool) {
  for (size_t i = 0; i < pools().size(); ++i) {
    if (reinterpret_cast<cudaMemPool_t>(&pools()[i]) == pool) return static_cast<int>(i);
  }
  return -1;
}

cudaError_t reject_memory_node(Stream &stream) {
  fprintf(stderr, "emulator: cudaMallocAsync and cudaFreeAsync during a stream capture are not emulated\n");
  invalidate(*stream.capture);
  return cudaErrorNotSupported;
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int index) {
  return call(__func__, [&] { return get_pool(pool, index); });
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *pool, int index) {
  return call(__func__, [&] { return get_pool(pool, index); });
}

cudaError_t cudaDeviceSetMemPool(int index, cudaMemPool_t pool) {
  return call(__func__,
              [&] { return is_device(index) && pool_device(pool) == index ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which, void *value) {
  return call(__func__, [&] { return attribute(pool, which, value, false); });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which, void *value) {
  return call(__func__, [&] { return attribute(pool, which, value, true); });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  return call(__func__, [&] { return pool_device(pool) >= 0 ? cudaSuccess : cudaErrorInvalidValue; });
}

}  // extern "C"
