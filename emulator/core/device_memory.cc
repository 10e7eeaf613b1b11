// Device allocations with red zones around them, a quarantine for freed memory, and the initialised state of each byte.
#include "core/device_memory.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "core/access.h"

namespace lily::emulator {
namespace {

// Every allocation has unused memory on both sides, so that a small overrun never reaches another allocation.
constexpr size_t kRedZone = 4096, kAlignment = 256;
// Bytes of freed memory kept in quarantine; above this limit the oldest allocation is released.
constexpr size_t kQuarantineBytes = size_t{64} << 20;

uint64_t address_of(const void *pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

Allocation::Allocation() = default;
Allocation::~Allocation() {
  std::free(raw);
  std::free(initialised);
}

void *DeviceMemory::allocate(size_t bytes, MemoryKind kind, int device, std::string label) {
  auto allocation = std::make_shared<Allocation>();
  if (bytes > SIZE_MAX / 2 || posix_memalign(&allocation->raw, kAlignment, bytes + 2 * kRedZone) != 0) {
    allocation->raw = nullptr;
    return nullptr;
  }
  allocation->initialised = static_cast<uint8_t *>(std::calloc(bytes + 1, 1));
  if (allocation->initialised == nullptr) return nullptr;
  allocation->base = static_cast<char *>(allocation->raw) + kRedZone;
  allocation->size = bytes;
  allocation->kind = kind;
  allocation->device = device;
  allocation->label = std::move(label);
  std::memset(allocation->base, 0xff, bytes);
  const std::unique_lock lock(mutex_);
  allocation->id = next_id_++;
  return (live_[address_of(allocation->base)] = std::move(allocation))->base;
}

bool DeviceMemory::release(void *base) {
  const std::unique_lock lock(mutex_);
  const auto found = live_.find(address_of(base));
  if (found == live_.end()) return false;
  std::shared_ptr<Allocation> allocation = std::move(found->second);
  live_.erase(found);
  allocation->freed = true;
  allocation->race_pages.clear();
  freed_bytes_ += allocation->size;
  freed_order_.push_back(address_of(base));
  freed_[address_of(base)] = std::move(allocation);
  while (freed_bytes_ > kQuarantineBytes) {
    const auto oldest = freed_.find(freed_order_.front());
    freed_bytes_ -= oldest->second->size;
    freed_.erase(oldest);
    freed_order_.pop_front();
  }
  return true;
}

std::shared_ptr<Allocation> DeviceMemory::find_locked(const Map &map, uint64_t address) const {
  auto next = map.upper_bound(address);
  if (next == map.begin()) return nullptr;
  --next;
  return next->second->contains(address, 1) ? next->second : nullptr;
}

std::shared_ptr<Allocation> DeviceMemory::find(const void *pointer) const {
  const std::shared_lock lock(mutex_);
  return find_locked(live_, address_of(pointer));
}

std::shared_ptr<Allocation> DeviceMemory::find_freed(const void *pointer) const {
  const std::shared_lock lock(mutex_);
  return find_locked(freed_, address_of(pointer));
}

std::shared_ptr<Allocation> DeviceMemory::find_before(const void *pointer) const {
  const std::shared_lock lock(mutex_);
  auto next = live_.upper_bound(address_of(pointer));
  return next == live_.begin() ? nullptr : std::prev(next)->second;
}

void DeviceMemory::mark_initialised(const void *pointer, size_t bytes) {
  const std::shared_ptr<Allocation> allocation = find(pointer);
  if (allocation == nullptr) return;
  const size_t offset = static_cast<const char *>(pointer) - allocation->base;
  std::memset(allocation->initialised + offset, 1, std::min(bytes, allocation->size - offset));
}

void DeviceMemory::copy(void *to, const void *from, size_t bytes) {
  std::memmove(to, from, bytes);
  const std::shared_ptr<Allocation> source = find(from), target = find(to);
  if (target == nullptr || !target->contains(address_of(to), bytes)) return;
  uint8_t *state = target->initialised + (static_cast<char *>(to) - target->base);
  if (source == nullptr || !source->contains(address_of(from), bytes)) {
    std::memset(state, 1, bytes);
  } else {
    std::memmove(state, source->initialised + (static_cast<const char *>(from) - source->base), bytes);
  }
}

std::vector<std::shared_ptr<Allocation>> DeviceMemory::live() const {
  std::map<uint64_t, std::shared_ptr<Allocation>> by_id;
  const std::shared_lock lock(mutex_);
  for (const auto &[base, allocation] : live_) by_id[allocation->id] = allocation;
  std::vector<std::shared_ptr<Allocation>> result;
  for (const auto &[id, allocation] : by_id) result.push_back(allocation);
  return result;
}

DeviceMemory &device_memory() {
  // Never destroyed: destructors that run at exit may still free device memory.
  static DeviceMemory *memory = new DeviceMemory;
  return *memory;
}

}  // namespace lily::emulator
