// Parses an instruction's operands and resolves them to registers.
#pragma once

#include "core/kernel_symbols.h"

namespace lily::emulator {

class OperandParser {
 public:
  OperandParser(TokenStream &tokens, KernelCode &code, KernelSymbols &symbols)
      : tokens_(tokens), code_(code), symbols_(symbols) {}

  // as_double: a literal with a decimal point gives the bits of a double instead of a float.
  Operand parse(bool as_double);

 private:
  void parse_scalar(Operand &operand, bool as_double);
  void set_constant(Operand &operand, uint64_t value);
  void parse_offset(Operand &operand);
  Operand parse_address();
  Operand parse_vector(bool as_double);

  TokenStream &tokens_;
  KernelCode &code_;
  KernelSymbols &symbols_;
};

}  // namespace lily::emulator
