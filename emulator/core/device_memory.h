// The registry of device memory: host memory for which the emulator records bounds, lifetime and initialised bytes.
//
// New memory is filled with 0xff, so that a value read before it is written is a NaN or an implausible integer. Freed
// memory stays in quarantine for a while, so that a late access is reported instead of reaching another allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace lily::emulator {

enum class MemoryKind : uint8_t { kDevice, kPinnedHost };

struct AccessCell;

struct Allocation {
  uint64_t id = 0;  // unique in the process, in order of allocation
  char *base = nullptr;
  size_t size = 0;
  MemoryKind kind = MemoryKind::kDevice;
  int device = 0;
  std::string label;  // for messages
  bool freed = false;

  bool contains(uint64_t address, size_t bytes) const {
    const uint64_t start = reinterpret_cast<uint64_t>(base);
    return address >= start && bytes <= size && address - start <= size - bytes;
  }

  // Used by the registry and the race checker only.
  static constexpr size_t kRacePageBytes = 1024;
  void *raw = nullptr;
  uint8_t *initialised = nullptr;  // 1 for each byte that was written; null if the host is out of memory
  struct RacePage {
    uint64_t launch = 0;
    std::unique_ptr<AccessCell[]> cells;  // covers kRacePageBytes
  };
  std::vector<RacePage> race_pages;

  Allocation();
  ~Allocation();
};

class DeviceMemory {
 public:
  // Null if the host is out of memory. Zero bytes give a valid pointer to an empty allocation.
  void *allocate(size_t bytes, MemoryKind kind = MemoryKind::kDevice, int device = 0, std::string label = {});
  // Frees an allocation. False if `base` is not the start of a live allocation.
  bool release(void *base);

  // The live allocation that contains `pointer`; null for a pointer to an empty allocation or past the end of one.
  std::shared_ptr<Allocation> find(const void *pointer) const;
  // The freed allocation in quarantine that contains `pointer`.
  std::shared_ptr<Allocation> find_freed(const void *pointer) const;
  // The live allocation with the highest start at or below `pointer`, for messages.
  std::shared_ptr<Allocation> find_before(const void *pointer) const;

  // Marks bytes that the host wrote as initialised. Bytes outside allocations are ignored.
  void mark_initialised(const void *pointer, size_t bytes);
  // memmove between device or host memory that also copies the initialised state of each byte.
  void copy(void *to, const void *from, size_t bytes);

  std::vector<std::shared_ptr<Allocation>> live() const;  // in order of allocation; those left at exit are leaks

 private:
  using Map = std::map<uint64_t, std::shared_ptr<Allocation>>;
  std::shared_ptr<Allocation> find_locked(const Map &map, uint64_t address) const;

  mutable std::shared_mutex mutex_;
  Map live_, freed_;
  std::deque<uint64_t> freed_order_;
  size_t freed_bytes_ = 0;
  uint64_t next_id_ = 1;
};

DeviceMemory &device_memory();

}  // namespace lily::emulator
