// What the race checker remembers of one granule of memory: its last writer and its last readers.
//
// Time is counted per block; a thread's epoch is the time of the last synchronisation that it took part in. An access
// is ordered before another if the second's thread has since been told, by a barrier or a fenced atomic, of a later
// time.
#pragma once

#include <cstdint>

namespace lily::emulator {

struct AccessRecord {
  static constexpr uint32_t kNobody = ~0u;
  static constexpr uint32_t kThreadBits = 10;  // 1024 threads per block

  uint32_t block = kNobody;
  uint32_t thread_and_pc = 0;
  uint32_t epoch_and_strength = 0;  // bit 0: strong or atomic

  bool exists() const { return block != kNobody; }
  uint32_t thread() const { return thread_and_pc & ((1u << kThreadBits) - 1); }
  int32_t pc() const { return static_cast<int32_t>(thread_and_pc >> kThreadBits); }
  uint32_t epoch() const { return epoch_and_strength >> 1; }
  bool strong() const { return epoch_and_strength & 1; }
};

// Two bytes: a bf16 is the smallest thing that neighbouring threads commonly write side by side. Of single bytes only
// the last access is known, so a race of bytes may be missed, but none is invented.
struct AccessCell {
  AccessRecord write;
  AccessRecord read, other_read;  // the last reader, and the last one of another warp
  uint8_t write_bytes = 3, read_bytes = 3, other_read_bytes = 3;
};

}  // namespace lily::emulator
