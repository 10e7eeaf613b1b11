#include "core/register_uses.h"

#include <map>
#include <tuple>

namespace lily::emulator {

bool has_result(const Instruction &in) {
  if (in.opcode == "wgmma") return updates_result(in);
  return in.operand_count > 0 && in.opcode != "st" && in.opcode != "cp" && in.opcode != "bar";
}

RegisterUses::RegisterUses(const KernelCode &code) : register_count_(code.initial_registers.size()) {
  std::map<std::tuple<int, int, int, int>, int32_t> places;
  for (const Instruction &in : code.instructions) {
    Uses uses;
    uses.first = static_cast<uint32_t>(all_.size());
    uses.is_move = in.opcode == "mov";
    uses.is_load = in.opcode == "ld";
    const SourcePosition &at = code.locations[in.location];
    uses.place = places
                     .emplace(std::tuple{at.file, at.line, at.inlined_file, at.inlined_line},
                              static_cast<int32_t>(places.size()))
                     .first->second;
    const auto add = [&](int32_t reg) { all_.push_back(reg); };
    each_register_read(in, add);
    uses.reads = static_cast<uint8_t>(all_.size() - uses.first);
    each_register_written(in, add);
    uses.writes = static_cast<uint8_t>(all_.size() - uses.first - uses.reads);
    uses_.push_back(uses);
  }
  for (size_t pc = 0; pc < code.instructions.size(); ++pc) {
    const Instruction &in = code.instructions[pc];
    if (in.target < 0) continue;
    if (pc + 1 < uses_.size()) uses_[pc + 1].begins_basic_block = true;
    uses_[in.target].begins_basic_block = true;
  }
}

}  // namespace lily::emulator
