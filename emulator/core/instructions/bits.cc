// Bits and logic: and, or, xor, not, cnot, lop3, shl, shr, shf, bfe, bfi, bfind, clz, popc, brev, prmt.
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
Int is_zero(Int x) {
  return x == 0;
}

template <class Int>
void shift_left_by(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, shift_left(source<Int>(thread, in, 1), source<uint32_t>(thread, in, 2)));
}
template <class Int>
void shift_right_by(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, shift_right(source<Int>(thread, in, 1), source<uint32_t>(thread, in, 2)));
}
template <bool kRight, bool kWrap>
uint32_t shift_pair(uint32_t low, uint32_t high, uint32_t amount) {
  return funnel_shift(low, high, amount, kRight, kWrap);
}

template <class Int>
void extract_field(Thread &thread, const Instruction &in) {
  set_result<Int>(
      thread, in,
      bit_field_extract(source<Int>(thread, in, 1), source<uint32_t>(thread, in, 2), source<uint32_t>(thread, in, 3)));
}
template <class Int>
void insert_field(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in,
                  bit_field_insert(source<Int>(thread, in, 1), source<Int>(thread, in, 2),
                                   source<uint32_t>(thread, in, 3), source<uint32_t>(thread, in, 4)));
}

// The result has 32 bits for operands of either size.
template <class Int>
void leading_bit(Thread &thread, const Instruction &in) {
  set_result<uint32_t>(thread, in, find_leading_bit(source<Int>(thread, in, 1), in.flag));
}
template <class Int>
void count_leading_zeros(Thread &thread, const Instruction &in) {
  set_result<uint32_t>(thread, in, static_cast<uint32_t>(std::countl_zero(source<Int>(thread, in, 1))));
}
template <class Int>
void count_ones(Thread &thread, const Instruction &in) {
  set_result<uint32_t>(thread, in, static_cast<uint32_t>(std::popcount(source<Int>(thread, in, 1))));
}

// d = table(a, b, c). With .or or .and, also p = (d != 0) op q.
void logic_3(Thread &thread, const Instruction &in) {
  const uint32_t result = logic_of_three(source<uint32_t>(thread, in, 1), source<uint32_t>(thread, in, 2),
                                         source<uint32_t>(thread, in, 3), source<uint32_t>(thread, in, 4));
  bool predicate = false;
  if (in.flag) {
    const bool other = thread.predicate(in.operands[5]);
    predicate = in.operation == kOr ? result != 0 || other : result != 0 && other;
  }
  set_result<uint32_t>(thread, in, result);
  if (in.flag) thread.set_register(in.operands[0].second, predicate);
}

template <Logic kLogic>
Executor logic_of(const Instruction &in, Type type) {
  if (type == Type::kPred) return combine_predicates<kLogic>;
  if (!is_bits(type)) refuse(in, "requires .pred or a .b type");
  return by_integer(in, type, [](auto x) -> Executor {
    using Int = decltype(x);
    return binary<Int, combine_bits<Int, kLogic>>;
  });
}

void decode_logic_3(Instruction &in, Modifiers &modifiers) {
  const std::optional<Logic> logic = modifiers.take_one<Logic>({{"or", kOr}, {"and", kAnd}});
  in.flag = logic.has_value();
  in.operation = logic.value_or(kAnd);
  take_type(in, modifiers, {Type::kB32});
  expect_operands(in, in.flag ? 6 : 5, in.flag ? 6 : 5);
  in.executor = logic_3;
}

void decode_funnel_shift(Instruction &in, Modifiers &modifiers) {
  const bool right = modifiers.take("r");
  if (!right && !modifiers.take("l")) refuse(in, "requires .l or .r");
  const bool wrap = modifiers.take("wrap");
  if (!wrap && !modifiers.take("clamp")) refuse(in, "requires .wrap or .clamp");
  take_type(in, modifiers, {Type::kB32});
  expect_operands(in, 4, 4);
  if (right) {
    in.executor = wrap ? ternary<uint32_t, shift_pair<true, true>> : ternary<uint32_t, shift_pair<true, false>>;
  } else {
    in.executor = wrap ? ternary<uint32_t, shift_pair<false, true>> : ternary<uint32_t, shift_pair<false, false>>;
  }
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

void decode_field(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "bfe") {
    const Type type = take_type(in, modifiers, {Type::kU32, Type::kU64, Type::kS32, Type::kS64});
    expect_operands(in, 4, 4);
    in.executor = by_integer(in, type, [](auto x) -> Executor { return extract_field<decltype(x)>; });
  } else {
    const bool wide = take_type(in, modifiers, {Type::kB32, Type::kB64}) == Type::kB64;
    expect_operands(in, 5, 5);
    in.executor = wide ? insert_field<uint64_t> : insert_field<uint32_t>;
  }
}

void decode_count(Instruction &in, Modifiers &modifiers) {
  expect_operands(in, 2, 2);
  if (in.opcode == "bfind") {
    in.flag = modifiers.take("shiftamt");
    const Type type = take_type(in, modifiers, {Type::kU32, Type::kU64, Type::kS32, Type::kS64});
    in.executor = by_integer(in, type, [](auto x) -> Executor { return leading_bit<decltype(x)>; });
    return;
  }
  const bool wide = take_type(in, modifiers, {Type::kB32, Type::kB64}) == Type::kB64;
  if (in.opcode == "clz") in.executor = wide ? count_leading_zeros<uint64_t> : count_leading_zeros<uint32_t>;
  if (in.opcode == "popc") in.executor = wide ? count_ones<uint64_t> : count_ones<uint32_t>;
  if (in.opcode == "brev") {
    in.executor = wide ? unary<uint64_t, reverse_bits<uint64_t>> : unary<uint32_t, reverse_bits<uint32_t>>;
  }
}

void decode_complement(Instruction &in, Modifiers &modifiers) {
  const bool is_not = in.opcode == "not";
  const Type type = modifiers.take_type();
  expect_operands(in, 2, 2);
  if (is_not && type == Type::kPred) {
    in.executor = negate_predicate;
    return;
  }
  if (!is_bits(type)) refuse(in, "requires a .b type");
  in.executor = by_integer(in, type, [&](auto x) -> Executor {
    using Int = decltype(x);
    return is_not ? unary<Int, complement<Int>> : unary<Int, is_zero<Int>>;
  });
}

}  // namespace

void decode_bits(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  if (name == "and" || name == "or" || name == "xor") {
    const Type type = modifiers.take_type();
    expect_operands(in, 3, 3);
    in.executor = name == "and"  ? logic_of<kAnd>(in, type)
                  : name == "or" ? logic_of<kOr>(in, type)
                                 : logic_of<kXor>(in, type);
  } else if (name == "not" || name == "cnot") {
    decode_complement(in, modifiers);
  } else if (name == "lop3") {
    decode_logic_3(in, modifiers);
  } else if (name == "shf") {
    decode_funnel_shift(in, modifiers);
  } else if (name == "shl" || name == "shr") {
    decode_shift(in, modifiers);
  } else if (name == "bfe" || name == "bfi") {
    decode_field(in, modifiers);
  } else if (name == "prmt") {
    // The modes .f4e, .b4e, .rc8, .ecl, .ecr and .rc16 are not taken, so decode() rejects them.
    take_type(in, modifiers, {Type::kB32});
    expect_operands(in, 4, 4);
    in.executor = ternary<uint32_t, permute_bytes>;
  } else {
    decode_count(in, modifiers);
  }
}

}  // namespace lily::emulator
