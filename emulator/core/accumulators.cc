// Checks at the registers of a warpgroup's products: which instructions read them in flight, and which write them after
// the last wgmma.fence. Only the instructions that name such a register pay for it.
#include <algorithm>

#include "core/block.h"
#include "core/register_uses.h"
#include "core/warpgroup.h"

namespace lily::emulator {
namespace {

bool has_32_bits(const Operand &operand) { return size_of(operand.type) == 4; }

bool is_copy(const Instruction &in) {
  return in.opcode == "mov" && in.operands[0].kind == Operand::Kind::kRegister && has_32_bits(in.operands[0]) &&
         in.operands[1].kind == Operand::Kind::kRegister && in.operands[1].offset == 0 && has_32_bits(in.operands[1]);
}

// Not an instruction of the machine code, wherever nvcc puts it.
bool is_constant(const Instruction &in) {
  return in.opcode == "mov" && in.operands[1].kind == Operand::Kind::kConstant;
}

// A move as a copy of the register with its upper half.
void copy(Thread &thread, const Instruction &in) { thread.set(in.operands[0], thread.get(in.operands[1])); }

bool is_accumulator(const Thread &thread, int32_t reg) {
  const std::vector<int32_t> &registers = thread.block->launch->code->accumulators;
  return std::binary_search(registers.begin(), registers.end(), reg);
}

void check_and_execute(Thread &thread, const Instruction &in) {
  check_results_in_flight(thread, in);
  in.tracked_executor(thread, in);
  if (!has_result(in) || !has_32_bits(in.operands[0])) return;
  const Warpgroup &group = thread.block->warpgroups[thread.index / kWarpgroupThreads];
  each_register(in.operands[0], [&](int32_t reg) {
    if (!is_accumulator(thread, reg)) return;
    thread.registers[reg] = static_cast<uint32_t>(thread.registers[reg]) | written_after(group.fences);
  });
}

bool names(const Instruction &in, const std::vector<int32_t> &registers) {
  bool found = false;
  for (const Operand &operand : in.all_operands()) {
    each_register(operand, [&](int32_t reg) {
      found |= has_32_bits(operand) && std::binary_search(registers.begin(), registers.end(), reg);
    });
  }
  return found;
}

// The registers of D of all products, and those that moves copy to or from them.
std::vector<int32_t> find_accumulators(const KernelCode &code) {
  std::vector<bool> found(code.initial_registers.size(), false);
  for (const Instruction &in : code.instructions) {
    if (!updates_result(in)) continue;
    for (const int32_t reg : in.operands[0].elements) found[reg] = true;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (const Instruction &in : code.instructions) {
      if (!is_copy(in) || found[in.operands[0].reg] == found[in.operands[1].reg]) continue;
      found[in.operands[0].reg] = found[in.operands[1].reg] = changed = true;
    }
  }
  std::vector<int32_t> registers;
  for (size_t reg = 0; reg < found.size(); ++reg) {
    if (found[reg]) registers.push_back(static_cast<int32_t>(reg));
  }
  return registers;
}

}  // namespace

void check_results_in_flight(Thread &thread, const Instruction &in) {
  if (thread.block->warpgroups[thread.index / kWarpgroupThreads].accumulators.empty()) return;
  for (const Operand &operand : in.all_operands().subspan(has_result(in) ? 1 : 0)) {
    each_register(operand, [&](int32_t reg) {
      if (!has_32_bits(operand) || !is_token(thread.registers[reg])) return;
      thread.report(in, FindingKind::kAsyncProduct,
                    "reads a result of wgmma.mma_async in flight: its wgmma.wait_group is missing or too weak");
    });
  }
}

void track_accumulators(KernelCode &code) {
  code.accumulators = find_accumulators(code);
  if (code.accumulators.empty()) return;
  for (Instruction &in : code.instructions) {
    if (is_constant(in) || !names(in, code.accumulators)) continue;
    in.is_tracked = in.flow == Flow::kWarp;
    if (in.executor == nullptr) continue;
    if (is_copy(in)) {
      in.executor = copy;
    } else {
      in.tracked_executor = in.executor;
      in.executor = check_and_execute;
    }
  }
}

}  // namespace lily::emulator
