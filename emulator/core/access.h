// The race checker's records for one cell of memory: its last writer and its last readers.
//
// Order is tracked with vector clocks. Each block counts its synchronisations; a thread's epoch is the count at the
// last synchronisation in which the thread took part. An access is ordered before a later one of the same block if a
// barrier has since given the later access's thread a clock value above the epoch of the earlier access. Blocks of a
// launch do not synchronise.
#pragma once

#include <cstdint>

namespace lily::emulator {

struct AccessRecord {
  static constexpr uint32_t kNoBlock = ~0u;
  static constexpr uint32_t kThreadBits = 10;  // 1024 threads per block

  uint32_t block = kNoBlock;
  uint32_t thread_and_pc = 0;
  uint32_t epoch_and_strength = 0;  // bit 0: strong

  bool exists() const { return block != kNoBlock; }
  uint32_t thread() const { return thread_and_pc & ((1u << kThreadBits) - 1); }
  int32_t pc() const { return static_cast<int32_t>(thread_and_pc >> kThreadBits); }
  uint32_t epoch() const { return epoch_and_strength >> 1; }
  bool strong() const { return epoch_and_strength & 1; }
  bool operator==(const AccessRecord &) const = default;
};

// A cell is two bytes, the size of a bf16, which is the smallest element that neighbouring threads commonly write side
// by side. For accesses of a single byte the cell keeps only the last one, so a race between bytes may be missed, but
// no false race is reported.
struct AccessCell {
  AccessRecord write;
  AccessRecord read, other_read;  // the last reader, and the last reader from another warp
  uint8_t write_bytes = 3, read_bytes = 3, other_read_bytes = 3;
};

}  // namespace lily::emulator
