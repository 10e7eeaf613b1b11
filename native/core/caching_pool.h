// Blocks of a backend's memory, kept for the next call instead of given back: fresh memory costs a page fault per 4
// KiB on the host, and a wait for the whole device on a GPU.
//
// The order is that of streams. A block belongs to the stream that it was taken for: whoever uses it elsewhere orders
// the streams by events, before and after. So a block that is given back while work on it is still queued can serve its
// own stream at once, and another one when that work has passed.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <mutex>
#include <unordered_map>
#include <vector>

#include "lily/backend.h"

namespace lily {

enum class MemoryKind {
  kDevice,  // of a device; for the CPU backend the host's
  kPinned,  // of the host, for copies to and from a device
};

struct PoolStatistics {
  size_t bytes_in_use, bytes_kept, peak_bytes_in_use;
  size_t blocks_in_use, blocks_kept;
  uint64_t allocations;  // how often the backend was asked for memory
};

class CachingPool {
 public:
  CachingPool(const lily_backend &backend, int32_t device, MemoryKind kind);

  // A block of at least `bytes` with unspecified contents, or null when there is no memory even after the kept blocks
  // were given up (which waits for the streams that use them). It is given back with the same `bytes` and `stream`.
  void *take(size_t bytes, lily_stream stream = 0);
  // `idle`: no queued work uses it, so that anyone may have it at once.
  void give_back(void *block, size_t bytes, lily_stream stream = 0, bool idle = false);

  // Between the two, what `stream` is given is recorded, to be done later and again and again. Blocks that it gives
  // back meanwhile serve later work of the record and nobody else, until the stream is handed over.
  void begin_capture(lily_stream stream);
  void end_capture(lily_stream stream);
  bool is_recording(lily_stream stream);

  // Of a stream that ends, after its work was ordered before all later work of `heir`.
  void hand_over(lily_stream stream, lily_stream heir);

  // Waits for the kept blocks and gives them back to the backend.
  void empty();

  PoolStatistics statistics() const;

 private:
  struct Block {
    void *data;
    lily_stream stream;
    lily_event event;  // recorded in `stream` after the block's last use, or none
    bool idle;
  };

  // What a capture has given back. To the statistics it is in use.
  struct Captured {
    bool recording;
    std::unordered_map<size_t, std::vector<void *>> blocks;
  };

  static size_t size_class(size_t bytes);
  bool passed(Block &block);
  bool usable_at_once(const Block &block, lily_stream stream) const;
  void keep(size_t size, const Block &block);
  Captured *recording(lily_stream stream);
  void *reuse(size_t size, lily_stream stream);
  void *take_waiting(size_t size, lily_stream stream);
  void drop_event(Block &block);
  void shrink();
  void release_kept();
  lily_status allocate(size_t size, void **block);
  void release(void *block);

  const lily_backend &backend_;
  const int32_t device_;
  const MemoryKind kind_;
  const bool has_streams_;
  const size_t limit_;
  mutable std::mutex mutex_;
  std::unordered_map<size_t, std::vector<Block>> kept_;
  std::unordered_map<lily_stream, Captured> captured_;
  std::vector<lily_event> free_events_;
  PoolStatistics statistics_ = {};
};

// The pool of a backend's device, for the life of the process.
CachingPool &caching_pool(const lily_backend &backend, int32_t device, MemoryKind kind = MemoryKind::kDevice);

// Of every pool of a backend: a capture, what a stream that ends leaves, and all that is kept.
void begin_capture_in_pools(const lily_backend &backend, int32_t device, lily_stream stream);
void end_capture_in_pools(const lily_backend &backend, int32_t device, lily_stream stream);
void hand_over_pools(const lily_backend &backend, int32_t device, lily_stream stream, lily_stream heir);
void empty_pools(const lily_backend &backend);

// A block that goes back by itself.
class PooledBlock {
 public:
  PooledBlock() = default;
  PooledBlock(CachingPool &pool, size_t bytes, lily_stream stream = 0)
      : pool_(&pool), bytes_(bytes), stream_(stream), data_(pool.take(bytes, stream)) {}
  PooledBlock(PooledBlock &&other) noexcept
      : pool_(other.pool_), bytes_(other.bytes_), stream_(other.stream_), data_(other.data_) {
    other.data_ = nullptr;
  }
  PooledBlock &operator=(PooledBlock &&) = delete;
  ~PooledBlock() {
    if (data_ != nullptr) pool_->give_back(data_, bytes_, stream_);
  }

  void *data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  CachingPool *pool_ = nullptr;
  size_t bytes_ = 0;
  lily_stream stream_ = 0;
  void *data_ = nullptr;
};

}  // namespace lily
