// Counts the loads that a thread has in flight when it waits for one of them. A thread of a GPU continues after a load
// from global memory, and waits where an instruction first uses a loaded value; the other loads since its last wait are
// then in flight, too. ptxas moves loads up: a wait therefore lasts to the end of the basic block, and the loads of the
// rest of the block count as in flight. They do not from a barrier on, from a store to global memory on, which they may
// depend on, or if a loaded value is part of the address.
//
// A wait is short if fewer than kLoads loads, with fewer than kLoadBytes bytes, are in flight. 128 threads with 64
// bytes each and two blocks per multiprocessor are 16 KiB in flight, which is about what an H100 needs to fill its
// bandwidth. What counts are the sectors of 32 bytes that a block loads for the first time: later loads find them in
// L1. Asynchronous copies do not count, because no register waits for them.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/register_uses.h"

namespace lily::emulator {

struct Counters;
struct Thread;

// Of the threads of a block.
class LoadsInFlight {
 public:
  static constexpr size_t kLoads = 8, kLoadBytes = 64;

  LoadsInFlight(const RegisterUses &uses, size_t threads) : uses_(uses), threads_(threads) {}

  // Called before a thread executes an instruction; after it has loaded from global memory; before it stores there.
  void execute(const Thread &thread, const Instruction &in);
  void load(const Thread &thread, const Instruction &in, uint64_t address, uint32_t bytes);
  void store(const Thread &thread);
  // Adds the bytes of threads that have loaded at least kLoads times at a place. Those of short waits count if the
  // thread has waited at the place more often than with kLoads loads in flight.
  void add_to(std::vector<Counters> &instructions);

 private:
  struct Load {
    int32_t pc;
    uint32_t bytes, new_bytes;  // of the load; of the sectors that the block has not loaded before
  };
  struct Place {
    int32_t pc = 0;
    uint64_t loads = 0, bytes = 0, short_bytes = 0, waits = 0, last_wait = 0;
  };
  struct OfThread {
    // Per register: the number of the wait for the loads that its value depends on; 0: none.
    std::vector<uint32_t> wait_of;
    uint32_t next_wait = 1;
    bool waits = false;  // since an instruction of this basic block
    std::vector<Load> in_flight;
    std::unordered_map<int32_t, Place> places;
  };
  void end_wait(OfThread &thread);

  const RegisterUses &uses_;
  std::vector<OfThread> threads_;
  std::unordered_set<uint64_t> sectors_;  // that the block has loaded
};

}  // namespace lily::emulator
