#include "core/caching_pool.h"

#include <map>
#include <tuple>

#include "lily/cpu.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lily {
namespace {

// Tells AddressSanitizer which part of a block of host memory may be accessed: the rest of its size class, and cached
// blocks, may not.
void set_accessible([[maybe_unused]] void *block, [[maybe_unused]] size_t size, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(block, size);
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
#endif
}

// The limit of cached host memory: enough for the workspaces and results of a large layer, and small enough to leave
// memory for other processes. Device memory has no limit, because freeing it waits for the device: it is cached until
// `empty`, or until an allocation fails.
constexpr size_t kHostLimit = size_t{1} << 30;

constexpr MemoryKind kKinds[] = {MemoryKind::kDevice, MemoryKind::kPinned};

}  // namespace

CachingPool::CachingPool(const lily_backend &backend, int32_t device, MemoryKind kind)
    : backend_(backend),
      device_(device),
      kind_(kind),
      has_streams_(&backend != lily_cpu_backend()),
      limit_(has_streams_ && kind == MemoryKind::kDevice ? SIZE_MAX : kHostLimit) {}

// Four size classes per power of two: at most a quarter of a block is unused, and requests of similar size share
// blocks.
size_t CachingPool::size_class(size_t bytes) {
  size_t step = 1024;
  while (step * 8 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void *CachingPool::take(size_t bytes, lily_stream stream) {
  const size_t size = size_class(bytes == 0 ? 1 : bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Captured *captured = recording(stream)) {
    // Captured work runs in the order of the capture, so it can reuse device memory. The host writes to pinned memory
    // during the capture, before any captured work runs, so pinned blocks cannot be reused.
    std::vector<void *> &blocks = captured->blocks[size];
    if (kind_ == MemoryKind::kDevice && !blocks.empty()) {
      void *block = blocks.back();
      blocks.pop_back();
      return block;
    }
  }
  void *block = reuse(size, stream);
  if (block == nullptr && allocate(size, &block) != LILY_OK) {
    // A capturing stream cannot wait for work outside of the capture.
    block = recording(stream) == nullptr ? take_waiting(size, stream) : nullptr;
    if (block == nullptr) {
      release_cached();
      if (allocate(size, &block) != LILY_OK) return nullptr;
    }
  }
  statistics_.blocks_in_use += 1;
  statistics_.bytes_in_use += size;
  if (statistics_.bytes_in_use > statistics_.peak_bytes_in_use) {
    statistics_.peak_bytes_in_use = statistics_.bytes_in_use;
  }
  if (!has_streams_) set_accessible(block, size, bytes);
  return block;
}

void CachingPool::return_block(void *block, size_t bytes, lily_stream stream, bool idle) {
  const size_t size = size_class(bytes == 0 ? 1 : bytes);
  if (!has_streams_) set_accessible(block, size, 0);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Captured *captured = recording(stream)) {
    captured->blocks[size].push_back(block);
    return;
  }
  cache_block(size, {block, stream, 0, idle || !has_streams_});
}

// Moves a block from the blocks in use to the cached blocks.
void CachingPool::cache_block(size_t size, const Block &block) {
  statistics_.blocks_in_use -= 1;
  statistics_.bytes_in_use -= size;
  std::vector<Block> &blocks = cached_[size];
  blocks.push_back(block);
  // The host writes to pinned memory without regard to queued work, so the event must be recorded now, at the last use.
  if (kind_ == MemoryKind::kPinned) work_completed(blocks.back());
  statistics_.blocks_cached += 1;
  statistics_.bytes_cached += size;
  if (statistics_.bytes_cached > limit_) trim();
}

void CachingPool::set_recording(lily_stream stream, bool recording) {
  const std::lock_guard<std::mutex> lock(mutex_);
  captured_[stream].recording = recording;
}

bool CachingPool::is_recording(lily_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return recording(stream) != nullptr;
}

// The capture in progress on a stream, or null.
CachingPool::Captured *CachingPool::recording(lily_stream stream) {
  const auto found = captured_.find(stream);
  return found != captured_.end() && found->second.recording ? &found->second : nullptr;
}

void CachingPool::hand_over(lily_stream stream, lily_stream successor) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto found = captured_.find(stream); found != captured_.end()) {
    const Captured captured = std::move(found->second);
    captured_.erase(found);
    for (const auto &[size, blocks] : captured.blocks) {
      for (void *block : blocks) cache_block(size, {block, successor, 0, false});
    }
  }
  for (auto &[size, blocks] : cached_) {
    for (Block &block : blocks) {
      if (block.stream == stream) block.stream = successor;
    }
  }
}

void CachingPool::empty() {
  const std::lock_guard<std::mutex> lock(mutex_);
  release_cached();
  for (const lily_event event : free_events_) backend_.event_destroy(device_, event);
  free_events_.clear();
}

PoolStatistics CachingPool::statistics() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return statistics_;
}

// Whether the work on a block has completed: all work that was queued on its stream before the event. If the block has
// no event yet, one is recorded now.
bool CachingPool::work_completed(Block &block) {
  if (block.idle) return true;
  if (block.event == 0) {
    lily_event event = 0;
    if (!free_events_.empty()) {
      event = free_events_.back();
      free_events_.pop_back();
    } else if (backend_.event_create(device_, 0, &event) != LILY_OK) {
      return false;
    }
    if (backend_.event_record(device_, event, block.stream) != LILY_OK) {
      free_events_.push_back(event);
      return false;
    }
    block.event = event;
  }
  int32_t ready = 0;
  block.idle = backend_.event_query(device_, block.event, &ready) == LILY_OK && ready != 0;
  return block.idle;
}

void CachingPool::drop_event(Block &block) {
  if (block.event != 0) free_events_.push_back(block.event);
  block.event = 0;
}

// Takes a cached block that is usable without waiting. The block that was returned last comes first, because it is most
// likely in the caches.
void *CachingPool::reuse(size_t size, lily_stream stream) {
  const auto found = cached_.find(size);
  if (found == cached_.end()) return nullptr;
  std::vector<Block> &blocks = found->second;
  const auto take_block = [&](size_t index) {
    void *data = blocks[index].data;
    drop_event(blocks[index]);
    blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(index));
    statistics_.blocks_cached -= 1;
    statistics_.bytes_cached -= size;
    return data;
  };
  for (size_t i = blocks.size(); i-- > 0;) {
    if (blocks[i].idle || (kind_ == MemoryKind::kDevice && blocks[i].stream == stream)) return take_block(i);
  }
  for (size_t i = blocks.size(); i-- > 0;) {
    if (work_completed(blocks[i])) return take_block(i);
  }
  return nullptr;
}

// Used when an allocation fails: takes a block of another stream, and makes `stream` wait for the work on it.
void *CachingPool::take_waiting(size_t size, lily_stream stream) {
  const auto found = cached_.find(size);
  if (found == cached_.end() || found->second.empty() || kind_ == MemoryKind::kPinned) return nullptr;
  Block &block = found->second.back();
  work_completed(block);
  if (block.event == 0 || backend_.stream_wait_event(device_, stream, block.event) != LILY_OK) return nullptr;
  block.stream = stream;
  return reuse(size, stream);
}

// Releases blocks whose work has completed, until the cached memory is within the limit.
void CachingPool::trim() {
  for (auto &[size, blocks] : cached_) {
    for (size_t i = blocks.size(); i-- > 0 && statistics_.bytes_cached > limit_;) {
      if (!work_completed(blocks[i])) continue;
      drop_event(blocks[i]);
      release(blocks[i].data);
      blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(i));
      statistics_.blocks_cached -= 1;
      statistics_.bytes_cached -= size;
    }
  }
}

void CachingPool::release_cached() {
  for (auto &[size, blocks] : cached_) {
    for (Block &block : blocks) {
      // Releasing a block does not have to wait for queued work, so wait here.
      if (!work_completed(block) && block.event != 0) backend_.event_synchronize(device_, block.event);
      drop_event(block);
      release(block.data);
    }
    statistics_.blocks_cached -= blocks.size();
    statistics_.bytes_cached -= size * blocks.size();
    blocks.clear();
  }
}

lily_status CachingPool::allocate(size_t size, void **block) {
  statistics_.allocations += 1;
  return kind_ == MemoryKind::kPinned ? backend_.allocate_pinned(device_, size, block)
                                      : backend_.allocate(device_, size, block);
}

void CachingPool::release(void *block) {
  if (kind_ == MemoryKind::kPinned) {
    backend_.release_pinned(device_, block);
  } else {
    backend_.release(device_, block);
  }
}

namespace {

using Pools = std::map<std::tuple<const lily_backend *, int32_t, MemoryKind>, CachingPool *>;

// Never destroyed, because a finalizer may return a block after the static destructors have run.
std::mutex &pools_mutex() {
  static std::mutex *const mutex = new std::mutex;
  return *mutex;
}

Pools &pools() {
  static Pools *const pools = new Pools;
  return *pools;
}

}  // namespace

CachingPool &caching_pool(const lily_backend &backend, int32_t device, MemoryKind kind) {
  const std::lock_guard<std::mutex> lock(pools_mutex());
  CachingPool *&pool = pools()[{&backend, device, kind}];
  if (pool == nullptr) pool = new CachingPool(backend, device, kind);
  return *pool;
}

void set_recording_in_pools(const lily_backend &backend, int32_t device, lily_stream stream, bool recording) {
  for (const MemoryKind kind : kKinds) caching_pool(backend, device, kind).set_recording(stream, recording);
}

void hand_over_pools(const lily_backend &backend, int32_t device, lily_stream stream, lily_stream successor) {
  for (const MemoryKind kind : kKinds) caching_pool(backend, device, kind).hand_over(stream, successor);
}

void empty_pools(const lily_backend &backend) {
  const std::lock_guard<std::mutex> lock(pools_mutex());
  for (const auto &[key, pool] : pools()) {
    if (std::get<0>(key) == &backend) pool->empty();
  }
}

}  // namespace lily
