// What a launch executed, counted per kernel and per source line. The emulator counts; it does not measure time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lily::emulator {

struct Counters {
  uint64_t thread_instructions = 0;
  uint64_t matrix_instructions = 0;   // mma, per warp; a wgmma counts as the mma.m16n8k16 of as many products
  uint64_t global_requests = 0;       // per warp
  uint64_t global_sectors = 0;        // 32-byte sectors that the requests accessed
  uint64_t global_sectors_ideal = 0;  // sectors needed if the same bytes were contiguous
  uint64_t shared_requests = 0;
  uint64_t shared_wavefronts = 0;
  uint64_t shared_wavefronts_ideal = 0;  // without bank conflicts
  uint64_t barriers = 0;                 // per block and per warp barrier
  // Bytes of the sectors that blocks load from global memory, not asynchronously, at places of the source where a
  // thread loads repeatedly; and of these the bytes for which it waits with few loads in flight (loads_in_flight.h).
  uint64_t repeated_load_bytes = 0;
  uint64_t short_wait_bytes = 0;
  Counters &operator+=(const Counters &other);
};

struct LineKey {
  std::string file;
  int line = 0;
  std::string inlined_file;
  int inlined_line = 0;
  auto operator<=>(const LineKey &) const = default;
};

struct KernelCounters {
  uint64_t launches = 0;
  Counters total;
  // 32-byte sectors of global memory accessed at least once in a launch, summed over launches: the DRAM traffic with a
  // perfect cache. A sector that is both read and written counts once in each.
  uint64_t distinct_sectors_read = 0;
  uint64_t distinct_sectors_written = 0;
  std::map<LineKey, Counters> lines;
  KernelCounters &operator+=(const KernelCounters &other);
};

// {"kernels": {"name": {"launches": 1, "thread_instructions": ..., "lines": [{"file": ..., "line": ..., ...}]}}}
std::string to_json(const std::map<std::string, KernelCounters> &kernels);

}  // namespace lily::emulator
