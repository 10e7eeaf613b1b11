// Counts the memory traffic of warps. Lanes that execute the same instruction for the same time form one request.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/counters.h"
#include "core/loads_in_flight.h"

namespace lily::emulator {

struct KernelCode;
struct Thread;
struct Instruction;

inline constexpr uint64_t kSectorBytes = 32;

// Sectors of global memory accessed at least once.
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
  Traffic(const RegisterUses &uses, size_t instructions, size_t warps, size_t threads)
      : loads(uses, threads), open_(warps) {
    totals_.instructions.resize(instructions);
  }

  LoadsInFlight loads;

  Counters &at(int32_t pc) { return totals_.instructions[pc]; }
  void record(const Thread &thread, const Instruction &in, bool shared, bool write, uint64_t address, uint32_t bytes);
  void matrix_rows(const Instruction &in, const uint64_t *addresses, int rows);
  // Includes requests in which not all lanes took part. No access may be recorded afterwards.
  void merge_into(TrafficTotals &totals, std::mutex &mutex);

 private:
  // Per lane; `bytes` is 0 for a lane that does not take part.
  struct Request {
    int lanes = 0;
    bool shared = false;
    std::array<uint64_t, 32> addresses{};
    std::array<uint8_t, 32> bytes{};
  };
  void close(int32_t pc, const Request &request);

  // Per warp; the key combines the pc, how often the lane has executed it, and whether the request is to shared memory.
  std::vector<std::unordered_map<uint64_t, Request>> open_;
  TrafficTotals totals_;
};

// Number of wavefronts for an access to these words of shared memory: in each, every one of the 32 banks serves one
// 4-byte word. Lanes with 0 bytes do not take part.
uint64_t wavefronts(const uint64_t *addresses, const uint8_t *bytes, int lanes);

KernelCounters summarise(const KernelCode &code, const TrafficTotals &totals);

}  // namespace lily::emulator
