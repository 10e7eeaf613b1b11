// The names that a kernel's operands can use, and the registers that hold their values.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/declaration.h"

namespace lily::emulator {

class KernelSymbols {
 public:
  struct Register {
    int32_t index;
    Type type;
    bool is_constant;
  };

  KernelSymbols(KernelCode &code, const ModuleContents &module) : code_(code), module_(module), scopes_(1) {}

  void open_scope() { scopes_.emplace_back(); }
  void close_scope() { scopes_.pop_back(); }

  void declare_registers(TokenStream &tokens);  // parses what follows .reg
  void declare_parameter(const Declaration &declaration);
  void declare_local(const Declaration &declaration);
  void declare_shared(const Declaration &declaration);

  int32_t constant(uint64_t value);
  // A declared register, a special register, or a constant, such as the address of a variable.
  Register find(const TokenStream &tokens, const std::string &name);
  // Sets the offset of extern shared arrays, which start after all other shared variables.
  void finish();

 private:
  int32_t new_register(uint64_t initial = 0);
  size_t place_shared(size_t bytes, size_t alignment);

  KernelCode &code_;
  const ModuleContents &module_;
  std::vector<std::unordered_map<std::string, Register>> scopes_;
  std::unordered_map<std::string, Register> specials_;
  std::unordered_map<uint64_t, int32_t> constants_;
  std::map<std::string, uint64_t> addresses_;  // offsets of parameters, local and shared variables
  std::map<std::string, int32_t> external_shared_;
  size_t external_alignment_ = 16;
};

}  // namespace lily::emulator
