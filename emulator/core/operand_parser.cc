// Parses operands: registers, constants, addresses, vectors.
#include "core/operand_parser.h"

namespace lily::emulator {

Operand OperandParser::parse(bool as_double) {
  if (tokens_.accept("[")) return parse_address();
  if (tokens_.accept("{")) return parse_vector(as_double);
  Operand operand;
  operand.negated = tokens_.accept("!");
  parse_scalar(operand, as_double);
  if (tokens_.accept("|")) {
    Operand other;
    parse_scalar(other, as_double);
    operand.second = other.reg;
  }
  if (operand.kind == Operand::Kind::kRegister || operand.kind == Operand::Kind::kConstant) parse_offset(operand);
  return operand;
}

void OperandParser::parse_scalar(Operand &operand, bool as_double) {
  if (tokens_.peek().is("-") || tokens_.at_number()) {
    const bool negative = tokens_.accept("-");
    const std::string text = tokens_.word();
    uint64_t value = parse_number(tokens_, text, as_double);
    const bool is_real = text.find('.') != std::string::npos ||
                         (text.size() > 2 && text[0] == '0' && std::string("fFdD").find(text[1]) != std::string::npos);
    if (negative && is_real) {
      value ^= as_double ? 1ull << 63 : 1ull << 31;
    } else if (negative) {
      value = 0 - value;
    }
    set_constant(operand, value);
    return;
  }
  const std::string name = tokens_.word();
  if (name == "_") return;
  const KernelSymbols::Register found = symbols_.find(tokens_, name);
  operand.reg = found.index;
  operand.type = found.type;
  operand.kind = found.is_constant ? Operand::Kind::kConstant : Operand::Kind::kRegister;
  if (found.is_constant) operand.constant = code_.initial_registers[found.index];
}

void OperandParser::set_constant(Operand &operand, uint64_t value) {
  operand.kind = Operand::Kind::kConstant;
  operand.constant = value;
  operand.reg = symbols_.constant(value);
}

// Parses `+ 8` after an address. A constant includes the offset, so only the address of an extern array keeps one.
void OperandParser::parse_offset(Operand &operand) {
  while (tokens_.peek().is("+") || tokens_.peek().is("-")) {
    bool negative = tokens_.next().is("-");
    if (tokens_.accept("-")) negative = !negative;
    const int64_t value = static_cast<int64_t>(parse_number(tokens_, tokens_.word(), false));
    operand.offset += negative ? -value : value;
  }
  if (operand.kind == Operand::Kind::kConstant && operand.offset != 0) {
    set_constant(operand, operand.constant + static_cast<uint64_t>(operand.offset));
    operand.offset = 0;
  }
}

Operand OperandParser::parse_address() {
  Operand operand;
  parse_scalar(operand, false);
  if (operand.reg < 0) tokens_.fail("expected an address");
  parse_offset(operand);
  operand.kind = Operand::Kind::kAddress;
  tokens_.expect("]");
  return operand;
}

Operand OperandParser::parse_vector(bool as_double) {
  std::vector<int32_t> elements;
  Operand operand;
  do {
    Operand element;
    parse_scalar(element, as_double);
    if (element.reg >= 0) operand.type = element.type;
    elements.push_back(element.reg);
  } while (tokens_.accept(","));
  tokens_.expect("}");
  operand.kind = Operand::Kind::kVector;
  operand.elements = code_.vectors.emplace_back(std::move(elements));
  return operand;
}

}  // namespace lily::emulator
