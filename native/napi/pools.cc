// The caching pools: statistics, and release of the cached blocks.
#include "core/caching_pool.h"
#include "lily/cpu.h"
#include "napi/backends.h"
#include "napi/exports.h"
#include "napi/handles.h"
#include "napi/values.h"
#include "system/memory.h"

namespace lily::napi {
namespace {

// (backend, device, pinned) -> numbers
Napi::Value pool_statistics(const Napi::CallbackInfo &info) {
  const lily_backend &backend = available_backend(info.Env(), double_argument(info, 0));
  const int32_t device = device_of(info.Env(), backend, double_argument(info, 1));
  const MemoryKind kind = info[2].ToBoolean() ? MemoryKind::kPinned : MemoryKind::kDevice;
  const PoolStatistics found = caching_pool(backend, device, kind).statistics();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("bytesInUse", static_cast<double>(found.bytes_in_use));
  result.Set("bytesCached", static_cast<double>(found.bytes_cached));
  result.Set("peakBytesInUse", static_cast<double>(found.peak_bytes_in_use));
  result.Set("blocksInUse", static_cast<double>(found.blocks_in_use));
  result.Set("blocksCached", static_cast<double>(found.blocks_cached));
  result.Set("allocations", static_cast<double>(found.allocations));
  return result;
}

void empty_cache(const Napi::CallbackInfo &) {
  empty_pools(*lily_cpu_backend());
  if (opened_cuda_backend() != nullptr) empty_pools(*opened_cuda_backend());
  system::return_freed_memory();
}

}  // namespace

void add_pool_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("poolStatistics", Napi::Function::New<pool_statistics>(env));
  exports.Set("emptyCache", Napi::Function::New<empty_cache>(env));
}

}  // namespace lily::napi
