#include "core/caching_pool.h"

#include <map>
#include <utility>

namespace lily {

// Four classes per power of two: at most a quarter of a block is wasted, and close sizes share blocks.
size_t CachingPool::size_class(size_t bytes) {
  size_t step = 1024;
  while (step * 8 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void *CachingPool::take(size_t bytes) {
  const size_t size = size_class(bytes == 0 ? 1 : bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<void *> &blocks = kept_[size];
  if (!blocks.empty()) {
    void *block = blocks.back();
    blocks.pop_back();
    kept_bytes_ -= size;
    return block;
  }
  void *block = nullptr;
  if (backend_.allocate(device_, size, &block) == LILY_OK) return block;
  release_kept();
  return backend_.allocate(device_, size, &block) == LILY_OK ? block : nullptr;
}

void CachingPool::give_back(void *block, size_t bytes) {
  const size_t size = size_class(bytes == 0 ? 1 : bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  if (kept_bytes_ + size > kMaxKeptBytes) {
    backend_.release(device_, block);
    return;
  }
  kept_[size].push_back(block);
  kept_bytes_ += size;
}

void CachingPool::release_kept() {
  for (auto &[size, blocks] : kept_) {
    for (void *block : blocks) backend_.release(device_, block);
    blocks.clear();
  }
  kept_bytes_ = 0;
}

CachingPool &caching_pool(const lily_backend &backend, int32_t device) {
  // Never destroyed: a finalizer may give a block back after static destructors ran.
  static std::mutex *const mutex = new std::mutex;
  static auto *const pools = new std::map<std::pair<const lily_backend *, int32_t>, CachingPool *>;
  std::lock_guard<std::mutex> lock(*mutex);
  CachingPool *&pool = (*pools)[{&backend, device}];
  if (pool == nullptr) pool = new CachingPool(backend, device);
  return *pool;
}

}  // namespace lily
