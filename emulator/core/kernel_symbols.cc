// Resolves names to registers and addresses.
#include "core/kernel_symbols.h"

namespace lily::emulator {

int32_t KernelSymbols::new_register(uint64_t initial) {
  code_.initial_registers.push_back(initial);
  return static_cast<int32_t>(code_.initial_registers.size()) - 1;
}

int32_t KernelSymbols::constant(uint64_t value) {
  const auto [entry, added] = constants_.try_emplace(value, 0);
  if (added) entry->second = new_register(value);
  return entry->second;
}

void KernelSymbols::declare_registers(TokenStream &tokens) {
  const std::string type_name = tokens.word();
  const std::optional<Type> type = type_named(std::string_view(type_name).substr(1));
  if (!type || *type == Type::kB128) tokens.fail("unsupported register type " + type_name);
  do {
    const std::string name = tokens.word();
    if (tokens.accept("<")) {
      const uint64_t count = parse_number(tokens, tokens.word(), false);
      tokens.expect(">");
      for (uint64_t i = 0; i < count; ++i) scopes_.back()[name + std::to_string(i)] = {new_register(), *type, false};
    } else {
      scopes_.back()[name] = {new_register(), *type, false};
    }
  } while (tokens.accept(","));
  tokens.expect(";");
}

void KernelSymbols::declare_parameter(const Declaration &declaration) {
  code_.parameter_bytes = align_up(code_.parameter_bytes, declaration.alignment);
  addresses_[declaration.name] = code_.parameter_bytes;
  code_.parameters.push_back({declaration.name, code_.parameter_bytes, declaration.bytes(), declaration.alignment});
  code_.parameter_bytes += declaration.bytes();
}

void KernelSymbols::declare_local(const Declaration &declaration) {
  code_.local_bytes = align_up(code_.local_bytes, declaration.alignment);
  addresses_[declaration.name] = code_.local_bytes;
  code_.local_bytes += declaration.bytes();
}

size_t KernelSymbols::place_shared(size_t bytes, size_t alignment) {
  const size_t offset = align_up(code_.static_shared_bytes, alignment);
  code_.static_shared_bytes = offset + bytes;
  return offset;
}

void KernelSymbols::declare_shared(const Declaration &declaration) {
  addresses_[declaration.name] = place_shared(declaration.bytes(), declaration.alignment);
}

KernelSymbols::Register KernelSymbols::find(const TokenStream &tokens, const std::string &name) {
  for (size_t i = scopes_.size(); i-- > 0;) {
    if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
  }
  if (name[0] == '%') {
    if (const auto found = specials_.find(name); found != specials_.end()) return found->second;
    const std::optional<SpecialRegister> which = special_register_named(name);
    if (!which) tokens.fail("unsupported special register " + name);
    const Register special{new_register(), Type::kU32, false};
    code_.special_registers.push_back({special.index, *which});
    return specials_[name] = special;
  }
  if (name == "WARP_SZ") return {constant(32), Type::kU32, true};
  if (const auto found = addresses_.find(name); found != addresses_.end()) {
    return {constant(found->second), Type::kU64, true};
  }
  if (const auto found = external_shared_.find(name); found != external_shared_.end()) {
    return {found->second, Type::kU64, false};
  }
  const auto variable = module_.variables.find(name);
  if (variable == module_.variables.end()) tokens.fail("unknown name " + name);
  if (variable->second.external) {
    external_alignment_ = std::max(external_alignment_, variable->second.alignment);
    // Not a constant: the offset is known only after all shared variables are placed.
    return {external_shared_[name] = new_register(), Type::kU64, false};
  }
  const size_t offset = place_shared(variable->second.size, variable->second.alignment);
  addresses_[name] = offset;
  return {constant(offset), Type::kU64, true};
}

void KernelSymbols::finish() {
  code_.dynamic_shared_offset =
      external_shared_.empty() ? code_.static_shared_bytes : align_up(code_.static_shared_bytes, external_alignment_);
  for (const auto &[name, reg] : external_shared_) code_.initial_registers[reg] = code_.dynamic_shared_offset;
}

}  // namespace lily::emulator
