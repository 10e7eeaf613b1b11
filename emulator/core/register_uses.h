// Which registers an instruction reads and writes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/kernel_code.h"

namespace lily::emulator {

// The first operand of an instruction is its result, unless the instruction has none.
bool has_result(const Instruction &in);
// wgmma.mma_async, the only instruction of its opcode with several operands, also reads its result.
inline bool updates_result(const Instruction &in) { return in.opcode == "wgmma" && in.operand_count > 1; }

// Calls visit(register) for every register of the operand, and of the two parts of a result p|q.
template <class Visit>
void each_register(const Operand &operand, const Visit &visit) {
  for (const int32_t reg : operand.elements)
    if (reg >= 0) visit(reg);
  if (operand.elements.empty() && operand.reg >= 0) visit(operand.reg);
  if (operand.second >= 0) visit(operand.second);
}

// The guard predicate is not among the operands.
template <class Visit>
void each_register_read(const Instruction &in, const Visit &visit) {
  for (const Operand &operand : in.all_operands().subspan(has_result(in) && !updates_result(in) ? 1 : 0))
    each_register(operand, visit);
}
template <class Visit>
void each_register_written(const Instruction &in, const Visit &visit) {
  if (has_result(in)) each_register(in.operands[0], visit);
}

// The registers that each instruction of a kernel reads and writes, and its place in the source: its line, and the
// outermost line that it was inlined at.
class RegisterUses {
 public:
  explicit RegisterUses(const KernelCode &code);

  std::span<const int32_t> read(int32_t pc) const { return registers(pc, 0, uses_[pc].reads); }
  std::span<const int32_t> written(int32_t pc) const { return registers(pc, uses_[pc].reads, uses_[pc].writes); }
  // A move waits for nothing: the machine code has a register less instead.
  bool is_move(int32_t pc) const { return uses_[pc].is_move; }
  bool is_load(int32_t pc) const { return uses_[pc].is_load; }
  bool begins_basic_block(int32_t pc) const { return uses_[pc].begins_basic_block; }
  int32_t place(int32_t pc) const { return uses_[pc].place; }
  size_t register_count() const { return register_count_; }

 private:
  struct Uses {
    uint32_t first = 0;
    uint8_t reads = 0, writes = 0;
    bool is_move = false, is_load = false, begins_basic_block = false;
    int32_t place = 0;
  };
  std::span<const int32_t> registers(int32_t pc, size_t first, size_t count) const {
    return {all_.data() + uses_[pc].first + first, count};
  }

  std::vector<Uses> uses_;    // by pc
  std::vector<int32_t> all_;  // of each instruction those that it reads, then those that it writes
  size_t register_count_ = 0;
};

}  // namespace lily::emulator
