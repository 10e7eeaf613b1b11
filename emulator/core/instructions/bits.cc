// Bits and logic: and, or, xor, not, shl, shr, bfi, popc.
#include <bit>

#include "core/instructions/families.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum Logic : uint8_t { kAnd, kOr, kXor };

template <Logic kLogic>
uint64_t combine(uint64_t x, uint64_t y) {
  return kLogic == kAnd ? x & y : kLogic == kOr ? x | y : x ^ y;
}
template <class Int, Logic kLogic>
Int combine_bits(Int x, Int y) {
  return static_cast<Int>(combine<kLogic>(x, y));
}
template <Logic kLogic>
void combine_predicates(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], combine<kLogic>(thread.predicate(in.operands[1]), thread.predicate(in.operands[2])));
}
void negate_predicate(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], !thread.predicate(in.operands[1]));
}

template <class Int>
Int complement(Int x) {
  return static_cast<Int>(~x);
}

template <class Int>
void shift_left_by(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, shift_left(source<Int>(thread, in, 1), source<uint32_t>(thread, in, 2)));
}
template <class Int>
void shift_right_by(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, shift_right(source<Int>(thread, in, 1), source<uint32_t>(thread, in, 2)));
}

void insert_field(Thread &thread, const Instruction &in) {
  set_result<uint32_t>(thread, in,
                       bit_field_insert(source<uint32_t>(thread, in, 1), source<uint32_t>(thread, in, 2),
                                        source<uint32_t>(thread, in, 3), source<uint32_t>(thread, in, 4)));
}

uint32_t count_ones(uint32_t x) { return static_cast<uint32_t>(std::popcount(x)); }

template <Logic kLogic>
Executor logic_of(const Instruction &in, Type type) {
  if (type == Type::kPred) return combine_predicates<kLogic>;
  if (!is_bits(type)) refuse(in, "requires .pred or a .b type");
  return by_integer(in, type, [](auto x) -> Executor {
    using Int = decltype(x);
    return binary<Int, combine_bits<Int, kLogic>>;
  });
}

void decode_shift(Instruction &in, Modifiers &modifiers) {
  const bool left = in.opcode == "shl";
  const Type type = modifiers.take_type();
  if (left && !is_bits(type)) refuse(in, "requires a .b type");
  expect_operands(in, 3, 3);
  in.executor = by_integer(in, type, [&](auto x) -> Executor {
    using Int = decltype(x);
    return left ? shift_left_by<Int> : shift_right_by<Int>;
  });
}

void decode_complement(Instruction &in, Modifiers &modifiers) {
  const Type type = modifiers.take_type();
  expect_operands(in, 2, 2);
  if (type == Type::kPred) {
    in.executor = negate_predicate;
    return;
  }
  if (!is_bits(type)) refuse(in, "requires a .b type");
  in.executor = by_integer(in, type, [](auto x) -> Executor {
    using Int = decltype(x);
    return unary<Int, complement<Int>>;
  });
}

}  // namespace

void decode_bits(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  if (name == "not") return decode_complement(in, modifiers);
  if (name == "shl" || name == "shr") return decode_shift(in, modifiers);
  if (name == "bfi" || name == "popc") {
    take_type(in, modifiers, {Type::kB32});
    expect_operands(in, name == "bfi" ? 5 : 2, name == "bfi" ? 5 : 2);
    in.executor = name == "bfi" ? insert_field : unary<uint32_t, count_ones>;
    return;
  }
  const Type type = modifiers.take_type();
  expect_operands(in, 3, 3);
  in.executor = name == "and"  ? logic_of<kAnd>(in, type)
                : name == "or" ? logic_of<kOr>(in, type)
                               : logic_of<kXor>(in, type);
}

}  // namespace lily::emulator
