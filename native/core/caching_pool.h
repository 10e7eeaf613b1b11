// A caching allocator: it keeps freed blocks of a backend's memory for later calls. New host memory costs a page fault
// per 4 KiB, and freeing memory of a GPU waits for the whole device.
//
// Allocation is stream-ordered. A block belongs to the stream that it was taken for; code that uses the block on
// another stream must order the two streams by events, before and after. A block may be returned while work that uses
// it is still queued: the pool reuses it on the same stream at once, and on another stream when that work has
// completed.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lily/backend.h"

namespace lily {

enum class MemoryKind {
  kDevice,  // device memory; host memory for the CPU backend
  kPinned,  // page-locked host memory, for copies to and from a device
};

struct PoolStatistics {
  size_t bytes_in_use, bytes_cached, peak_bytes_in_use;
  size_t blocks_in_use, blocks_cached;
  uint64_t allocations;  // number of allocations that the pool requested from the backend
};

class CachingPool {
 public:
  CachingPool(const lily_backend &backend, int32_t device, MemoryKind kind);

  // Returns a block of at least `bytes` with unspecified contents. If memory is exhausted, the pool releases all cached
  // blocks, which waits for the streams that use them, and tries again; it returns null if that also fails. The block
  // must be returned with the same `bytes` and `stream`.
  void *take(size_t bytes, lily_stream stream = 0);
  // `idle`: no queued work uses the block, so that any stream may reuse it at once.
  void return_block(void *block, size_t bytes, lily_stream stream = 0, bool idle = false);

  // While it is set, work on `stream` is captured into a graph, which may be launched several times. Blocks that are
  // returned during a capture are reused by later captured work of the stream only, until hand_over.
  void set_recording(lily_stream stream, bool recording);
  bool is_recording(lily_stream stream);

  // Moves the blocks of a stream that is being destroyed to `successor`. The caller must have ordered all work of
  // `stream` before all later work of `successor`.
  void hand_over(lily_stream stream, lily_stream successor);

  // Waits for the work on the cached blocks and releases them to the backend.
  void empty();

  PoolStatistics statistics() const;

 private:
  struct Block {
    void *data;
    lily_stream stream;
    lily_event event;  // recorded on `stream` after the last use of the block; 0: none
    bool idle;
  };

  // The blocks that were returned during a capture. The statistics count them as in use.
  struct Captured {
    bool recording;
    std::unordered_map<size_t, std::vector<void *>> blocks;
  };

  static size_t size_class(size_t bytes);
  bool work_completed(Block &block);
  void cache_block(size_t size, const Block &block);
  Captured *recording(lily_stream stream);
  void *reuse(size_t size, lily_stream stream);
  void *take_waiting(size_t size, lily_stream stream);
  void drop_event(Block &block);
  void trim();
  void release_cached();
  lily_status allocate(size_t size, void **block);
  void release(void *block);

  const lily_backend &backend_;
  const int32_t device_;
  const MemoryKind kind_;
  const bool has_streams_;
  const size_t limit_;
  mutable std::mutex mutex_;
  std::unordered_map<size_t, std::vector<Block>> cached_;
  std::unordered_map<lily_stream, Captured> captured_;
  std::vector<lily_event> free_events_;
  PoolStatistics statistics_ = {};
};

// The pool of a device of a backend. It exists for the life of the process.
CachingPool &caching_pool(const lily_backend &backend, int32_t device, MemoryKind kind = MemoryKind::kDevice);

// The functions of CachingPool of the same names, for all pools of a device; `empty_pools` for all pools of a backend.
void set_recording_in_pools(const lily_backend &backend, int32_t device, lily_stream stream, bool recording);
void hand_over_pools(const lily_backend &backend, int32_t device, lily_stream stream, lily_stream successor);
void empty_pools(const lily_backend &backend);

// A block that the destructor returns to its pool.
class PooledBlock {
 public:
  PooledBlock() = default;
  PooledBlock(CachingPool &pool, size_t bytes, lily_stream stream = 0)
      : pool_(&pool), bytes_(bytes), stream_(stream), data_(pool.take(bytes, stream)) {}
  PooledBlock(PooledBlock &&other) noexcept
      : pool_(other.pool_),
        bytes_(other.bytes_),
        stream_(other.stream_),
        data_(std::exchange(other.data_, nullptr)),
        idle_(other.idle_) {}
  PooledBlock &operator=(PooledBlock &&) = delete;
  ~PooledBlock() {
    if (data_ != nullptr) pool_->return_block(data_, bytes_, stream_, idle_);
  }

  void *data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Marks the block as not used by any queued work.
  void set_idle() { idle_ = true; }

 private:
  CachingPool *pool_ = nullptr;
  size_t bytes_ = 0;
  lily_stream stream_ = 0;
  void *data_ = nullptr;
  bool idle_ = false;
};

}  // namespace lily
