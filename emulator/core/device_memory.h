// The registry of device memory: host memory whose bounds, life and initialised bytes the emulator knows.
//
// Fresh memory is filled with 0xff, so that a value used before it was written is a NaN or an absurd integer. Freed
// memory is kept back for a while, so that a late access is found instead of landing in someone else's allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

namespace lily::emulator {

enum class MemoryKind : uint8_t { kDevice, kPinnedHost, kRegisteredHost, kManaged, kModuleVariable };

struct AccessCell;

struct Allocation {
  uint64_t id = 0;  // unique in the process, in order of allocation
  char *base = nullptr;
  size_t size = 0;
  MemoryKind kind = MemoryKind::kDevice;
  int device = 0;
  std::string label;  // for messages: a variable's name
  bool freed = false;

  bool contains(uint64_t address, size_t bytes) const {
    const uint64_t start = reinterpret_cast<uint64_t>(base);
    return address >= start && bytes <= size && address - start <= size - bytes;
  }

  // Owned by the registry and the race checker.
  static constexpr size_t kRacePageBytes = 1024;
  void *raw = nullptr;
  uint8_t *initialised = nullptr;  // 1 for each byte that was written; null: all are (adopted memory)
  struct RacePage {
    uint64_t launch = 0;
    std::unique_ptr<AccessCell[]> cells;  // of kRacePageBytes
  };
  std::vector<RacePage> race_pages;

  Allocation();
  ~Allocation();
};

class DeviceMemory {
 public:
  // Null where the host has no memory left. Zero bytes give a valid pointer to an empty allocation.
  void *allocate(size_t bytes, MemoryKind kind = MemoryKind::kDevice, int device = 0, std::string label = {});
  // Memory of the host program that kernels may access (cudaHostRegister). It counts as initialised.
  bool adopt(void *base, size_t bytes, MemoryKind kind = MemoryKind::kRegisteredHost, int device = 0);
  // False if `base` is not the start of a live allocation. Also for adopted memory, which is only forgotten.
  bool release(void *base);

  // The live allocation that `pointer` lies in (or, for an empty or one-past-the-end pointer, nothing).
  std::shared_ptr<Allocation> find(const void *pointer) const;
  // Also freed ones that are still kept back.
  std::shared_ptr<Allocation> find_freed(const void *pointer) const;
  // The live allocation that starts last at or before `pointer`, for messages.
  std::shared_ptr<Allocation> find_before(const void *pointer) const;
  bool contains(const void *pointer, size_t bytes) const;

  // Host-side writes: marks bytes as initialised. Bytes outside allocations are ignored.
  void mark_initialised(const void *pointer, size_t bytes);
  // memmove between device or host memory that carries along which bytes are initialised.
  void copy(void *to, const void *from, size_t bytes);
  // Offset of the first byte never written, if any.
  std::optional<size_t> first_uninitialised(const void *pointer, size_t bytes) const;

  std::vector<std::shared_ptr<Allocation>> live() const;  // in order of allocation: what is left at exit is a leak

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
