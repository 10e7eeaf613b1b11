// Finds an opcode's decoder, runs it, and checks that it consumed every modifier.
#include <algorithm>
#include <unordered_map>

#include "core/emulator.h"
#include "core/instruction.h"

namespace lily::emulator {

bool Modifiers::take(std::string_view name) {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (!taken_[i] && names_[i] == name) return taken_[i] = true;
  }
  return false;
}

int Modifiers::take_any(std::initializer_list<std::string_view> names) {
  int index = 0;
  for (const std::string_view name : names) {
    if (take(name)) return index;
    ++index;
  }
  return -1;
}

Type Modifiers::take_type() {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (taken_[i]) continue;
    if (const std::optional<Type> type = type_named(names_[i])) {
      taken_[i] = true;
      return *type;
    }
  }
  throw Error("the type is missing");
}

bool Modifiers::has(std::string_view name) const {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (!taken_[i] && names_[i] == name) return true;
  }
  return false;
}

std::vector<std::string> Modifiers::left() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (!taken_[i]) names.push_back(names_[i]);
  }
  return names;
}

void refuse(const Instruction &in, const std::string &why) { throw Error(in.full_name + ": " + why); }

void expect_operands(const Instruction &in, int least, int most) {
  if (in.operand_count < least || in.operand_count > most) {
    refuse(in, std::to_string(in.operand_count) + " operands are not supported");
  }
}

Decoder find_decoder(const Instruction &in) {
  static const auto kDecoders = [] {
    std::unordered_map<std::string_view, Decoder> decoders;
    for (const std::span<const OpcodeEntry> table : {control_table(), instruction_table()}) {
      for (const OpcodeEntry &entry : table) decoders.emplace(entry.opcode, entry.decode);
    }
    return decoders;
  }();
  const auto found = kDecoders.find(in.opcode);
  if (found == kDecoders.end()) refuse(in, "unsupported instruction");
  return found->second;
}

void cache_registers(Instruction &in) {
  for (int i = 0; i < std::min<int>(in.operand_count, Instruction::kCachedOperands); ++i) {
    const Operand &operand = in.operands[i];
    in.registers[i] = operand.elements.size() == 1 ? operand.elements[0] : operand.reg;
  }
}

void decode(Instruction &in, std::vector<std::string> names) {
  const Decoder decoder = find_decoder(in);
  Modifiers modifiers(std::move(names));
  decoder(in, modifiers);
  if (const std::vector<std::string> left = modifiers.left(); !left.empty()) {
    refuse(in, "unsupported modifier ." + left.front());
  }
  const bool complete = in.flow == Flow::kWarp        ? in.warp_executor != nullptr
                        : in.flow == Flow::kWarpgroup ? in.warpgroup_executor != nullptr
                        : in.flow == Flow::kNext      ? in.executor != nullptr
                                                      : true;
  if (!complete) refuse(in, "unsupported combination of modifiers");
  cache_registers(in);
  for (int i = in.operand_count; i-- > 0;) {
    if (in.operands[i].kind == Operand::Kind::kAddress) in.offset = in.operands[i].offset;
  }
}

}  // namespace lily::emulator
