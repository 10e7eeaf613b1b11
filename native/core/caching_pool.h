// Blocks of a backend's memory, kept for the next call instead of given back: fresh memory costs a page fault per 4
// KiB, several times what the kernels need.
#pragma once

#include <stddef.h>

#include <mutex>
#include <unordered_map>
#include <vector>

#include "lily/backend.h"

namespace lily {

class CachingPool {
 public:
  explicit CachingPool(const lily_backend &backend, int32_t device) : backend_(backend), device_(device) {}

  // A block of at least `bytes` with unspecified contents, or null when there is no memory even after the kept blocks
  // were given up. It is given back with the same `bytes`.
  void *take(size_t bytes);
  void give_back(void *block, size_t bytes);

 private:
  static size_t size_class(size_t bytes);
  void release_kept();

  // Kept at most: enough for the workspaces and results of a large layer, not so much that it hurts its neighbours.
  static constexpr size_t kMaxKeptBytes = size_t{1} << 30;

  const lily_backend &backend_;
  const int32_t device_;
  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void *>> kept_;
  size_t kept_bytes_ = 0;
};

// The pool of a backend's device, for the life of the process.
CachingPool &caching_pool(const lily_backend &backend, int32_t device);

// A block that goes back by itself.
class PooledBlock {
 public:
  PooledBlock() = default;
  PooledBlock(CachingPool &pool, size_t bytes) : pool_(&pool), bytes_(bytes), data_(pool.take(bytes)) {}
  PooledBlock(PooledBlock &&other) noexcept : pool_(other.pool_), bytes_(other.bytes_), data_(other.data_) {
    other.data_ = nullptr;
  }
  PooledBlock &operator=(PooledBlock &&) = delete;
  ~PooledBlock() {
    if (data_ != nullptr) pool_->give_back(data_, bytes_);
  }

  void *data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  CachingPool *pool_ = nullptr;
  size_t bytes_ = 0;
  void *data_ = nullptr;
};

}  // namespace lily
