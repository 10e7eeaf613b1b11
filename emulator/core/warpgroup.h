// Warpgroups, four consecutive warps of a block, and their matrix products in flight (wgmma).
//
// wgmma.mma_async computes its product immediately, but the result stays in an Accumulator until the wait for its
// group. Until then the registers of D hold tokens: NaNs whose upper half, which no 32-bit instruction reads, names the
// accumulator and the element. Moves copy tokens, because nvcc copies registers where the machine code does not; any
// other instruction that reads one is a finding. The wait replaces the tokens.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/instruction.h"

namespace lily::emulator {

struct Block;
struct KernelCode;
struct Thread;

inline constexpr int kWarpgroupThreads = 128, kProductRows = 64, kProductDepth = 16, kMostProductColumns = 256;

struct Accumulator {
  uint32_t id = 0;
  int registers = 0;          // per thread
  uint64_t group = 0;         // the last wgmma-group that adds to it
  std::vector<float> values;  // `registers` of each thread
};

inline constexpr uint32_t kPieceBytes = 16;  // of A or B in shared memory

// Shared memory that a product in flight reads.
struct ProductReads {
  struct Piece {
    uint32_t offset;
    int32_t warp;  // that reads it; kAllWarps for B
  };
  static constexpr int32_t kAllWarps = -1;

  const Instruction *in = nullptr;
  uint64_t group = 0;
  std::vector<Piece> pieces;
};

struct Warpgroup {
  const Instruction *in = nullptr;  // at which the arrived threads wait
  uint32_t arrived = 0;
  std::array<Thread *, kWarpgroupThreads> threads{};  // those that have arrived

  uint32_t fences = 0;     // wgmma.fence executed so far
  uint64_t committed = 0;  // wgmma-groups so far; a new product belongs to the group of this number
  uint32_t last_id = 0;
  std::vector<Accumulator> accumulators;  // in flight
  std::vector<ProductReads> reads;
};

void arrive_at_warpgroup_operation(Thread &thread, const Instruction &in);
void check_warpgroup_at_exit(Thread &thread, const Instruction &in);
// wgmma.wait_group: completes all but the last `groups_left` groups.
void complete_products(Warpgroup &group, uint32_t groups_left);

// A token for element `element` of an accumulator.
constexpr uint64_t token_of(uint32_t id, int element) {
  constexpr uint32_t kNan = 0x7fc5a5a5;
  return uint64_t{id} << 40 | static_cast<uint64_t>(element) << 32 | kNan;
}
constexpr uint32_t kMostAccumulators = (1u << 23) - 1;
constexpr bool is_token(uint64_t value) {
  return static_cast<uint32_t>(value) == static_cast<uint32_t>(token_of(0, 0)) && value >> 40 != 0 && value >> 63 == 0;
}
constexpr uint32_t token_id(uint64_t token) { return static_cast<uint32_t>(token >> 40); }
constexpr int token_element(uint64_t token) { return static_cast<int>(token >> 32 & 0xff); }

// The upper half of a register that an instruction has written after so many fences.
constexpr uint64_t written_after(uint32_t fences) { return uint64_t{fences | 1u << 31} << 32; }

// Finds the registers that may hold tokens, and gives the instructions that access them executors that check and mark
// them.
void check_results_in_flight(Thread &thread, const Instruction &in);
void track_accumulators(KernelCode &code);

}  // namespace lily::emulator
