// cp.async: the source is read immediately, but the data reaches shared memory only at the wait.
#include <bit>
#include <cstring>

#include "core/memory.h"

namespace lily::emulator {

void Thread::copy_async(const Instruction &in, uint64_t shared_address, uint64_t global_address, uint32_t bytes,
                        uint32_t source_bytes) {
  AsyncCopy copy;
  copy.bytes = static_cast<uint8_t>(bytes);
  if (global_address & (bytes - 1)) {
    report(in, FindingKind::kMisaligned,
           describe_access(bytes, false) + "global address " + hexadecimal(global_address));
  }
  if (source_bytes > 0) {
    // A partial source need not be aligned to its own size, so it is read in pieces of a power of two.
    for (uint32_t done = 0; done < source_bytes;) {
      const uint32_t left = source_bytes - done, step = left >= 16 ? 16 : std::bit_floor(left);
      const MemoryLocation source =
          access_memory(*this, in, Space::kGlobal, global_address + done, step, {false, false});
      std::memcpy(copy.data.data() + done, source.data, step);
      done += step;
    }
    if (block->traffic != nullptr) block->traffic->record(*this, in, false, false, global_address, source_bytes);
  }
  const MemoryLocation target = access_memory(*this, in, Space::kShared, shared_address, bytes, {true, false});
  if (block->traffic != nullptr) block->traffic->record(*this, in, true, true, target.offset, bytes);
  copy.to = static_cast<uint32_t>(target.offset);
  // A read before the wait returns NaNs, even with the checks off.
  std::memset(target.data, 0xff, bytes);
  if (target.state != nullptr) std::memset(target.state, static_cast<int>(ByteState::kInFlight), bytes);
  copies.push_back(copy);
}

void Thread::wait_async(const Instruction &in, uint32_t groups_left) {
  if (copy_groups.size() <= groups_left) return;
  const size_t groups = copy_groups.size() - groups_left;
  const uint32_t arrived = copy_groups[groups - 1];
  for (uint32_t i = 0; i < arrived; ++i) {
    const AsyncCopy &copy = copies[i];
    if (!block->shared_state.empty()) {
      std::memset(block->shared_state.data() + copy.to, static_cast<int>(ByteState::kWritten), copy.bytes);
    }
    note_shared_write(*this, copy.to, copy.bytes);
    // This thread's barriers order the write only from here on.
    if (block->launch->options.checks && block->launch->options.shared_races) {
      check_shared_race(*this, in, copy.to, copy.bytes, {true, false});
    }
    std::memcpy(block->shared.data() + copy.to, copy.data.data(), copy.bytes);
  }
  copies.erase(copies.begin(), copies.begin() + arrived);
  copy_groups.erase(copy_groups.begin(), copy_groups.begin() + groups);
  for (uint32_t &end : copy_groups) end -= arrived;
}

}  // namespace lily::emulator
