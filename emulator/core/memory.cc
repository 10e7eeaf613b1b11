// Loads and stores of a thread: locates the address, checks the access, and moves the data.
#include "core/memory.h"

#include <algorithm>
#include <cstring>

namespace lily::emulator {
namespace {

const char *name_of(Space space) {
  switch (space) {
    case Space::kShared: return "shared";
    case Space::kLocal: return "local";
    case Space::kParam: return "parameter";
    default: return "global";
  }
}

[[noreturn]] void report_outside(Thread &thread, const Instruction &in, uint64_t address, uint32_t bytes, bool write) {
  const void *pointer = reinterpret_cast<const void *>(address);
  const std::string access = describe_access(bytes, write) + "global address " + hexadecimal(address);
  if (const auto freed = device_memory().find_freed(pointer)) {
    thread.report(in, FindingKind::kUseAfterFree,
                  access + ", in an allocation of " + std::to_string(freed->size) + " bytes that was freed");
  }
  const auto before = device_memory().find_before(pointer);
  std::string where;
  if (before != nullptr) {
    const uint64_t from_start = address - reinterpret_cast<uint64_t>(before->base);
    where = ", " + std::to_string(from_start) + " bytes into an allocation of " + std::to_string(before->size) +
            (before->label.empty() ? "" : " (" + before->label + ")");
  }
  thread.report(in, FindingKind::kOutOfBounds, access + where);
}

Allocation *find_allocation(Block &block, uint64_t address, uint32_t bytes) {
  auto &recent = block.recent;
  for (size_t i = 0; i < recent.size() && recent[i] != nullptr; ++i) {
    if (!recent[i]->contains(address, bytes)) continue;
    if (i > 1) std::swap(recent[i], recent[i / 2]);
    return recent[i > 1 ? i / 2 : i].get();
  }
  std::shared_ptr<Allocation> found = device_memory().find(reinterpret_cast<const void *>(address));
  if (found == nullptr || !found->contains(address, bytes)) return nullptr;
  for (size_t i = recent.size() - 1; i > 0; --i) recent[i] = std::move(recent[i - 1]);
  recent[0] = std::move(found);
  return recent[0].get();
}

MemoryLocation window(std::vector<uint8_t> &data, std::vector<uint8_t> &state, uint64_t start, Space space,
                      uint64_t offset) {
  return {data.data() + start + offset, state.empty() ? nullptr : state.data() + start + offset, space, offset,
          nullptr};
}

MemoryLocation locate(Thread &thread, const Instruction &in, Space space, uint64_t address, uint32_t bytes,
                      bool write) {
  Block &block = *thread.block;
  const KernelCode &code = *block.launch->code;
  if (space == Space::kGeneric) {
    if (address - kSharedWindow < kWindowBytes) {
      space = Space::kShared;
      address -= kSharedWindow;
    } else if (address - kLocalWindow < kWindowBytes) {
      space = Space::kLocal;
      address -= kLocalWindow;
    } else {
      space = Space::kGlobal;
    }
  }
  if (space == Space::kShared) address &= 0xffffffff;
  if (address & (bytes - 1)) {
    thread.report(in, FindingKind::kMisaligned,
                  describe_access(bytes, write) + name_of(space) + " address " + hexadecimal(address));
  }
  size_t size = 0;
  switch (space) {
    case Space::kShared:
      size = block.shared.size();
      if (bytes <= size && address <= size - bytes) return window(block.shared, block.shared_state, 0, space, address);
      break;
    case Space::kLocal:
      size = code.local_bytes;
      if (bytes <= size && address <= size - bytes) {
        return window(block.local, block.local_state, thread.index * code.local_bytes, space, address);
      }
      break;
    case Space::kParam:
      size = code.parameter_bytes;
      if (bytes <= size && address <= size - bytes && !write) {
        return {const_cast<uint8_t *>(block.launch->parameters) + address, nullptr, space, address, nullptr};
      }
      break;
    default:
      if (Allocation *allocation = find_allocation(block, address, bytes)) {
        const uint64_t offset = address - reinterpret_cast<uint64_t>(allocation->base);
        return {reinterpret_cast<uint8_t *>(address), allocation->initialised + offset, space, offset, allocation};
      }
      report_outside(thread, in, address, bytes, write);
  }
  thread.report(in, FindingKind::kOutOfBounds,
                describe_access(bytes, write) + name_of(space) + " offset " + std::to_string(address) +
                    ", but the size is " + std::to_string(size));
}

bool all_written(const uint8_t *state, uint32_t bytes) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  uint64_t word;
  for (; bytes >= 8; bytes -= 8, state += 8) {
    std::memcpy(&word, state, 8);
    if (word != kOnes) return false;
  }
  for (uint32_t i = 0; i < bytes; ++i) {
    if (state[i] != 1) return false;
  }
  return true;
}

void check_state(Thread &thread, const Instruction &in, const MemoryLocation &location, uint32_t bytes, bool write) {
  if (location.state == nullptr || all_written(location.state, bytes)) return;
  const auto where = [&] {
    return describe_access(bytes, write) + name_of(location.space) + " offset " + std::to_string(location.offset) +
           (location.allocation != nullptr ? " of the allocation" : "");
  };
  for (uint32_t i = 0; i < bytes; ++i) {
    if (stage_of(location.state[i]) != ByteState::kInFlight) continue;
    thread.report(in, FindingKind::kAsyncCopy,
                  where() + ", the destination of an asynchronous copy in flight: its wait is missing or too weak");
  }
  if (write) {
    if (std::any_of(location.state, location.state + bytes, [](uint8_t state) { return state >= kProductReader; }))
      thread.report(in, FindingKind::kAsyncProduct,
                    where() + ", which a wgmma.mma_async in flight reads: its wgmma.wait_group is missing or too weak");
    return;
  }
  if (std::all_of(location.state, location.state + bytes,
                  [](uint8_t state) { return stage_of(state) == ByteState::kWritten; }))
    return;
  thread.report(in, FindingKind::kUninitialised, where() + ", which has not been written");
}

void check_race(Thread &thread, const Instruction &in, const MemoryLocation &location, uint32_t bytes,
                RaceAccess access) {
  const LaunchOptions &options = thread.block->launch->options;
  if (location.space == Space::kShared && options.shared_races) {
    check_shared_race(thread, in, static_cast<uint32_t>(location.offset), bytes, access);
  } else if (location.space == Space::kGlobal && options.global_races && location.allocation != nullptr) {
    check_before_wait(thread, in, *location.allocation, location.offset, bytes, access);
    check_global_race(thread, in, *location.allocation, location.offset, bytes, access);
  }
}

void count(Thread &thread, const Instruction &in, const MemoryLocation &location, uint32_t bytes, bool write) {
  Traffic *traffic = thread.block->traffic.get();
  if (traffic == nullptr || (location.space != Space::kShared && location.space != Space::kGlobal)) return;
  const bool shared = location.space == Space::kShared;
  traffic->record(thread, in, shared, write, shared ? location.offset : reinterpret_cast<uint64_t>(location.data),
                  bytes);
}

void mark_written(Thread &thread, const MemoryLocation &location, uint32_t bytes) {
  if (location.space == Space::kShared) note_shared_write(thread, static_cast<uint32_t>(location.offset), bytes);
  if (location.state != nullptr) std::memset(location.state, static_cast<int>(ByteState::kWritten), bytes);
}

}  // namespace

std::string describe_access(uint32_t bytes, bool write) {
  return std::string(write ? "write of " : "read of ") + std::to_string(bytes) + " bytes at ";
}

std::string hexadecimal(uint64_t value) {
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, "0x%llx", static_cast<unsigned long long>(value));
  return buffer;
}

MemoryLocation access_memory(Thread &thread, const Instruction &in, Space space, uint64_t address, uint32_t bytes,
                             RaceAccess access) {
  const MemoryLocation location = locate(thread, in, space, address, bytes, access.write);
  if (thread.block->launch->options.checks) {
    check_state(thread, in, location, bytes, access.write);
    check_race(thread, in, location, bytes, access);
  }
  if (access.write) mark_written(thread, location, bytes);
  return location;
}

void Thread::load(const Instruction &in, Space space, uint64_t address, void *to, uint32_t bytes) {
  const MemoryLocation location = access_memory(*this, in, space, address, bytes, {false, in.is_strong});
  count(*this, in, location, bytes, false);
  if (block->traffic != nullptr && location.space == Space::kGlobal)
    block->traffic->loads.load(*this, in, address, bytes);
  std::memcpy(to, location.data, bytes);
}

void Thread::store(const Instruction &in, Space space, uint64_t address, const void *from, uint32_t bytes) {
  const MemoryLocation location = access_memory(*this, in, space, address, bytes, {true, in.is_strong});
  count(*this, in, location, bytes, true);
  if (block->traffic != nullptr && location.space == Space::kGlobal) block->traffic->loads.store(*this);
  std::memcpy(location.data, from, bytes);
}

void Thread::load_row(const Instruction &in, uint64_t shared_address, void *to) {
  constexpr uint32_t kBytes = 16;
  const MemoryLocation location = access_memory(*this, in, Space::kShared, shared_address, kBytes, {false, false});
  std::memcpy(to, location.data, kBytes);
}

}  // namespace lily::emulator
