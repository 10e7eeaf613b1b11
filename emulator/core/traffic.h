// Counts what warps ask of memory: lanes that execute the same instruction the same time round form one request.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/counters.h"

namespace lily::emulator {

struct KernelCode;
struct Thread;
struct Instruction;

inline constexpr uint64_t kSectorBytes = 32;

// Sectors of global memory touched at least once.
class SectorSet {
 public:
  void add(uint64_t address, uint32_t bytes);
  void merge(const SectorSet &other);
  uint64_t count() const;

 private:
  static constexpr uint64_t kSectorsPerPage = 128;
  std::unordered_map<uint64_t, std::bitset<kSectorsPerPage>> pages_;
};

struct TrafficTotals {
  std::vector<Counters> instructions;  // by pc
  SectorSet read, written;
};

class Traffic {
 public:
  Traffic(size_t instructions, size_t warps) : open_(warps) { totals_.instructions.resize(instructions); }

  Counters &at(int32_t pc) { return totals_.instructions[pc]; }
  void record(const Thread &thread, const Instruction &in, bool shared, bool write, uint64_t address, uint32_t bytes);
  void matrix_rows(const Instruction &in, const uint64_t *addresses, int rows);
  // Also requests that not all lanes took part in. Ends the counting.
  void merge_into(TrafficTotals &totals, std::mutex &mutex);

 private:
  // By lane; no bytes are of a lane that does not take part.
  struct Request {
    int lanes = 0;
    bool shared = false;
    std::array<uint64_t, 32> addresses{};
    std::array<uint8_t, 32> bytes{};
  };
  void close(int32_t pc, const Request &request);

  // For each warp, by pc, how often it was executed, and whether it is of shared memory.
  std::vector<std::unordered_map<uint64_t, Request>> open_;
  TrafficTotals totals_;
};

// Wavefronts that lanes reading these words take: each of the 32 banks gives one 4-byte word at a time. Lanes of no
// bytes do not take part.
uint64_t wavefronts(const uint64_t *addresses, const uint8_t *bytes, int lanes);

KernelCounters summarise(const KernelCode &code, const TrafficTotals &totals);

}  // namespace lily::emulator
