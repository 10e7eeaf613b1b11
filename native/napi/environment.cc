#include "napi/environment.h"

#include <mutex>

#include "core/caching_pool.h"
#include "napi/backends.h"
#include "napi/streams.h"

namespace lily::napi {
namespace {

std::mutex environments_mutex;
int environments = 0;

}  // namespace

Environment::Environment() {
  const std::lock_guard<std::mutex> lock(environments_mutex);
  ++environments;
}

Environment::~Environment() {
  releases->end();
  const std::lock_guard<std::mutex> lock(environments_mutex);
  if (--environments > 0 || opened_cuda_backend() == nullptr) return;
  const lily_backend &backend = *opened_cuda_backend();
  empty_pools(backend);
  Stream::release_defaults();
  backend.close();
}

}  // namespace lily::napi
