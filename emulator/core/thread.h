// A thread and a warp operation, as executors see them.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/access.h"
#include "core/emulator.h"
#include "core/instruction.h"

namespace lily::emulator {

struct Block;
struct LaunchState;

struct AsyncCopy {
  uint32_t to = 0;  // offset in shared memory
  uint8_t bytes = 0;
  std::array<uint8_t, 16> data{};
};

struct Thread {
  uint64_t *registers = nullptr;
  int32_t pc = 0;  // index of the next instruction while an executor runs; a branch changes it
  uint8_t lane = 0;
  bool waited = false;  // for the launch before: by griddepcontrol.wait, or ordered after another thread's
  uint16_t index = 0;   // linear index in the block
  uint32_t epoch = 1;   // the block's clock at the thread's last synchronisation
  Warp *warp = nullptr;
  Block *block = nullptr;
  enum class State : uint8_t { kReady, kAtWarpOperation, kAtBarrier, kExited } state = State::kReady;

  std::vector<AsyncCopy> copies;                        // cp.async operations in flight, oldest first
  std::vector<uint32_t> copy_groups;                    // for each committed group, the number of copies up to its end
  std::vector<std::pair<uint32_t, uint32_t>> unfenced;  // offset and size of writes to shared memory
  std::vector<uint32_t> executions;                     // per instruction; empty unless counting

  // ---- Registers. A register of n bits holds its value zero-extended, or sign-extended if its executor does so.
  // Readers use only the low n bits. Predicates are 0 or 1.
  uint64_t get(const Operand &operand) const { return registers[operand.reg]; }
  bool predicate(const Operand &operand) const { return (registers[operand.reg] & 1) != operand.negated; }
  void set(const Operand &operand, uint64_t value) {
    if (operand.reg >= 0) registers[operand.reg] = value;
  }
  void set_register(int32_t reg, uint64_t value) {
    if (reg >= 0) registers[reg] = value;
  }
  // The i-th register of a vector operand; for a scalar operand, i must be 0.
  static int32_t element(const Operand &operand, int i) {
    return operand.kind == Operand::Kind::kVector ? operand.elements[i] : operand.reg;
  }
  static int elements(const Operand &operand) {
    return operand.kind == Operand::Kind::kVector ? static_cast<int>(operand.elements.size()) : 1;
  }
  uint64_t address(const Operand &operand) const { return registers[operand.reg] + operand.offset; }

  // ---- Memory. `bytes` is the size of the whole access, 1 to 16, and the address must be a multiple of it. These
  // functions check bounds, alignment, races and initialisation, and count the access.
  void load(const Instruction &in, Space space, uint64_t address, void *to, uint32_t bytes);
  void store(const Instruction &in, Space space, uint64_t address, const void *from, uint32_t bytes);
  // Rows of ldmatrix: as load, but counted by count_matrix_rows.
  void load_row(const Instruction &in, uint64_t shared_address, void *to);

  // ---- cp.async. If `source_bytes` is less than `bytes`, the rest is filled with zeros. The data arrives at the wait;
  // until then the destination must be neither read nor written.
  void copy_async(const Instruction &in, uint64_t shared_address, uint64_t global_address, uint32_t bytes,
                  uint32_t source_bytes);
  void commit_async() { copy_groups.push_back(static_cast<uint32_t>(copies.size())); }
  void wait_async(const Instruction &in, uint32_t groups_left);
  void wait_all_async(const Instruction &in) {
    commit_async();
    wait_async(in, 0);
  }

  // ---- Ordering and findings.
  // fence.proxy.async: makes this thread's writes to shared memory visible to the products of warpgroups.
  void fence_proxy();
  // Adds the finding, unless the launch has one, and ends the launch by an exception.
  [[noreturn]] void report(const Instruction &in, FindingKind kind, const std::string &message) const;
};

// A warp operation at which all lanes have arrived.
struct WarpOperation {
  uint32_t mask = 0;                 // lanes that take part
  std::array<Thread *, 32> lanes{};  // null for all other lanes
  Warp *warp = nullptr;
  Block *block = nullptr;

  template <class Function>
  void each(Function function) const {  // function(lane, thread)
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      function(lane, *lanes[lane]);
    }
  }
  Thread &first() const { return *lanes[std::countr_zero(mask)]; }
  // bar.warp.sync: orders the memory accesses of the lanes.
  void synchronise();
  // Counts wavefronts of ldmatrix: one per 8 rows of 16 bytes without bank conflicts.
  void count_matrix_rows(const Instruction &in, const uint64_t *addresses, int rows);
};

}  // namespace lily::emulator
