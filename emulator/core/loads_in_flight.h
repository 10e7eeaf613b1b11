// Counts the loads that a thread has in flight when it waits for one of them. A thread of a GPU continues after a load
// from global memory, and waits where an instruction first uses a loaded value; by then the other loads since its last
// wait are in flight, too. A wait with fewer than kLoads loads in flight is a short one. Asynchronous copies do not count:
// no register waits for them.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/kernel_code.h"

namespace lily::emulator {

struct Counters;
struct Thread;

// The registers that each instruction of a kernel reads and writes, and its place in the source: its line, and the
// outermost line that it was inlined at.
class RegisterUses {
 public:
  explicit RegisterUses(const KernelCode &code);

  std::span<const int32_t> read(int32_t pc) const { return registers(pc, 0, uses_[pc].reads); }
  std::span<const int32_t> written(int32_t pc) const { return registers(pc, uses_[pc].reads, uses_[pc].writes); }
  // A move waits for nothing: the machine code has a register less instead.
  bool is_move(int32_t pc) const { return uses_[pc].is_move; }
  int32_t place(int32_t pc) const { return uses_[pc].place; }
  size_t register_count() const { return register_count_; }

 private:
  struct Uses {
    uint32_t first = 0;
    uint8_t reads = 0, writes = 0;
    bool is_move = false;
    int32_t place = 0;
  };
  std::span<const int32_t> registers(int32_t pc, size_t first, size_t count) const {
    return {all_.data() + uses_[pc].first + first, count};
  }

  std::vector<Uses> uses_;      // by pc
  std::vector<int32_t> all_;    // of each instruction those that it reads, then those that it writes
  size_t register_count_ = 0;
};

// Of the threads of a block.
class LoadsInFlight {
 public:
  static constexpr size_t kLoads = 8;

  LoadsInFlight(const RegisterUses &uses, size_t threads) : uses_(uses), threads_(threads) {}

  // Called before a thread executes an instruction, and after one has loaded from global memory.
  void execute(const Thread &thread, const Instruction &in);
  void load(const Thread &thread, const Instruction &in, uint32_t bytes);
  // Adds the bytes of the threads that have loaded at least kLoads times at a place.
  void add_to(std::vector<Counters> &instructions);

 private:
  struct Load {
    int32_t pc;
    uint32_t bytes;
  };
  struct Place {
    int32_t pc = 0;
    uint64_t loads = 0, bytes = 0, short_bytes = 0;
  };
  struct OfThread {
    std::vector<uint32_t> wait_of;  // per register: the number of the wait for the load that wrote it; 0: none
    uint32_t next_wait = 1;
    std::vector<Load> in_flight;
    std::unordered_map<int32_t, Place> places;
  };
  void wait(OfThread &thread);

  const RegisterUses &uses_;
  std::vector<OfThread> threads_;
};

}  // namespace lily::emulator
