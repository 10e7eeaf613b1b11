// Comparisons and selections: setp, set, selp, slct.
//
// If an operand is a NaN, ordered comparisons of floats are false and unordered ones (names ending in u) are true.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kEqualU,
  kNotEqualU,
  kLessU,
  kLessEqualU,
  kGreaterU,
  kGreaterEqualU,
  kBothNumbers,
  kAnyNan,
};
enum Combination : uint8_t { kAlone, kAnd, kOr, kXor };

template <class Value>
bool compare(Comparison comparison, Value x, Value y) {
  const bool unordered = x != x || y != y;
  switch (comparison) {
    case kEqual: return x == y;
    case kNotEqual: return !unordered && x != y;
    case kLess: return x < y;
    case kLessEqual: return x <= y;
    case kGreater: return x > y;
    case kGreaterEqual: return x >= y;
    case kEqualU: return unordered || x == y;
    case kNotEqualU: return unordered || x != y;
    case kLessU: return unordered || x < y;
    case kLessEqualU: return unordered || x <= y;
    case kGreaterU: return unordered || x > y;
    case kGreaterEqualU: return unordered || x >= y;
    case kBothNumbers: return !unordered;
    case kAnyNan: return unordered;
  }
  return false;
}

// Half and Bfloat are the template arguments for f16 and bf16, for which C++20 has no types.
template <class Value>
auto operand(const Thread &thread, const Instruction &in, int index) {
  if constexpr (std::is_same_v<Value, Half> || std::is_same_v<Value, Bfloat>) {
    uint16_t bits = source<uint16_t>(thread, in, index);
    if (in.flush_subnormals && (bits & 0x7fff) < Value::kSmallestNormal) bits &= 0x8000;
    return Value::widen(bits);
  } else {
    const Value value = source<Value>(thread, in, index);
    if constexpr (std::is_same_v<Value, float>)
      return in.flush_subnormals ? flush_subnormal(value) : value;
    else
      return value;
  }
}

bool combine(const Instruction &in, bool result, bool other) {
  switch (in.variant) {
    case kAnd: return result && other;
    case kOr: return result || other;
    case kXor: return result != other;
    default: return result;
  }
}

template <class Value>
void set_predicate(Thread &thread, const Instruction &in) {
  const bool result =
      compare(static_cast<Comparison>(in.operation), operand<Value>(thread, in, 1), operand<Value>(thread, in, 2));
  const bool other = in.variant != kAlone && thread.predicate(in.operands[3]);
  const Operand &to = in.operands[0];
  thread.set_register(to.reg, combine(in, result, other));
  thread.set_register(to.second, combine(in, !result, other));
}

// set: all ones or 1.0 if true, otherwise 0.
template <class Value>
void set_value(Thread &thread, const Instruction &in) {
  const bool result =
      compare(static_cast<Comparison>(in.operation), operand<Value>(thread, in, 1), operand<Value>(thread, in, 2));
  const bool value = combine(in, result, in.variant != kAlone && thread.predicate(in.operands[3]));
  const uint32_t yes = in.type == Type::kF32 ? 0x3f800000 : 0xffffffff;
  set_result<uint32_t>(thread, in, value ? yes : 0);
}

// set.f16, set.bf16: 1.0 or 0 in 16 bits. set.f16x2, set.bf16x2: the same for each half.
template <class Format>
void set_half(Thread &thread, const Instruction &in) {
  const uint64_t x = source<uint64_t>(thread, in, 1), y = source<uint64_t>(thread, in, 2);
  const uint32_t one = Format::narrow(1.0);
  const bool packed = in.source_type == Type::kF16x2 || in.source_type == Type::kBf16x2;
  // Destinations .u32, .s32 and .u16 get all ones.
  const uint32_t yes = is_float(in.type) ? one : 0xffff;
  uint32_t result = 0;
  for (int shift = 0; shift < (packed ? 32 : 16); shift += 16) {
    uint16_t a = static_cast<uint16_t>(x >> shift), b = static_cast<uint16_t>(y >> shift);
    if (in.flush_subnormals && (a & 0x7fff) < Format::kSmallestNormal) a &= 0x8000;
    if (in.flush_subnormals && (b & 0x7fff) < Format::kSmallestNormal) b &= 0x8000;
    if (compare(static_cast<Comparison>(in.operation), Format::widen(a), Format::widen(b))) result |= yes << shift;
  }
  if (!packed && !is_float(in.type) && size_of(in.type) == 4 && result != 0) result = 0xffffffff;
  set_result<uint32_t>(thread, in, result);
}

// setp.f16x2: p is the result of the lower halves, q that of the upper halves.
template <class Format>
void set_predicate_pair(Thread &thread, const Instruction &in) {
  const uint64_t x = source<uint64_t>(thread, in, 1), y = source<uint64_t>(thread, in, 2);
  const bool other = in.variant != kAlone && thread.predicate(in.operands[3]);
  bool results[2];
  for (int lane = 0; lane < 2; ++lane) {
    uint16_t a = static_cast<uint16_t>(x >> 16 * lane), b = static_cast<uint16_t>(y >> 16 * lane);
    if (in.flush_subnormals && (a & 0x7fff) < Format::kSmallestNormal) a &= 0x8000;
    if (in.flush_subnormals && (b & 0x7fff) < Format::kSmallestNormal) b &= 0x8000;
    results[lane] =
        combine(in, compare(static_cast<Comparison>(in.operation), Format::widen(a), Format::widen(b)), other);
  }
  thread.set_register(in.operands[0].reg, results[0]);
  thread.set_register(in.operands[0].second, results[1]);
}

template <class Int>
void select(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, source<Int>(thread, in, thread.predicate(in.operands[3]) ? 1 : 2));
}
template <class Int>
void select_by_sign(Thread &thread, const Instruction &in) {
  const bool first =
      in.source_type == Type::kF32 ? operand<float>(thread, in, 3) >= 0 : source<int32_t>(thread, in, 3) >= 0;
  set_result<Int>(thread, in, source<Int>(thread, in, first ? 1 : 2));
}

void take_comparison(Instruction &in, Modifiers &modifiers) {
  std::optional<Comparison> comparison = modifiers.take_one<Comparison>({{"eq", kEqual},
                                                                         {"ne", kNotEqual},
                                                                         {"lt", kLess},
                                                                         {"le", kLessEqual},
                                                                         {"gt", kGreater},
                                                                         {"ge", kGreaterEqual},
                                                                         {"equ", kEqualU},
                                                                         {"neu", kNotEqualU},
                                                                         {"ltu", kLessU},
                                                                         {"leu", kLessEqualU},
                                                                         {"gtu", kGreaterU},
                                                                         {"geu", kGreaterEqualU},
                                                                         {"num", kBothNumbers},
                                                                         {"nan", kAnyNan}});
  if (!comparison) {
    // The unsigned names of lt, le, gt and ge.
    comparison =
        modifiers.take_one<Comparison>({{"lo", kLess}, {"ls", kLessEqual}, {"hi", kGreater}, {"hs", kGreaterEqual}});
    in.flag = comparison.has_value();
  }
  if (!comparison) refuse(in, "the comparison is missing");
  in.operation = *comparison;
  in.variant = modifiers.take_one<Combination>({{"and", kAnd}, {"or", kOr}, {"xor", kXor}}).value_or(kAlone);
  expect_operands(in, in.variant == kAlone ? 3 : 4, in.variant == kAlone ? 3 : 4);
}

// .b types support only eq and ne; integer types have no comparisons for NaNs.
void check_comparison(const Instruction &in, Type type) {
  if (in.flag && !is_unsigned(type)) refuse(in, "the comparison requires an unsigned type");
  const bool allowed = is_float(type) || in.operation <= (is_bits(type) ? kNotEqual : kGreaterEqual);
  if (!allowed) refuse(in, "the comparison does not exist for ." + std::string(name_of(type)));
}

Executor predicate_of(const Instruction &in, Type type) {
  switch (type) {
    case Type::kF32: return set_predicate<float>;
    case Type::kF64: return set_predicate<double>;
    case Type::kF16: return set_predicate<Half>;
    case Type::kBf16: return set_predicate<Bfloat>;
    case Type::kF16x2: return set_predicate_pair<Half>;
    case Type::kBf16x2: return set_predicate_pair<Bfloat>;
    default: return by_integer(in, type, [](auto x) -> Executor { return set_predicate<decltype(x)>; });
  }
}

void decode_set(Instruction &in, Modifiers &modifiers) {
  in.type = modifiers.take_type();
  const Type type = in.source_type = modifiers.take_type();
  check_comparison(in, type);
  const bool plain = in.type == Type::kU32 || in.type == Type::kS32 || in.type == Type::kF32;
  if (type == Type::kF16 || type == Type::kBf16 || type == Type::kF16x2 || type == Type::kBf16x2) {
    const bool packed = type == Type::kF16x2 || type == Type::kBf16x2;
    const bool allowed = in.type == type || in.type == Type::kU32 || in.type == Type::kS32 ||
                         (!packed && (in.type == Type::kU16 || in.type == Type::kS16));
    if (!allowed || in.variant != kAlone) refuse(in, "this form is not supported");
    in.executor = type == Type::kF16 || type == Type::kF16x2 ? set_half<Half> : set_half<Bfloat>;
    return;
  }
  if (!plain) refuse(in, "the destination must be .u32, .s32 or .f32");
  if (type == Type::kF32)
    in.executor = set_value<float>;
  else if (type == Type::kF64)
    in.executor = set_value<double>;
  else
    in.executor = by_integer(in, type, [](auto x) -> Executor { return set_value<decltype(x)>; });
}

// A selection copies bits, so float types use the integer of their size.
Executor selection_of(const Instruction &in, Type type, bool by_sign) {
  const Type bits = type == Type::kF32 ? Type::kB32 : type == Type::kF64 ? Type::kB64 : type;
  return by_integer(in, bits, [&](auto x) -> Executor {
    using Int = decltype(x);
    return by_sign ? select_by_sign<Int> : select<Int>;
  });
}

}  // namespace

void decode_compare(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "selp") {
    expect_operands(in, 4, 4);
    in.executor = selection_of(in, modifiers.take_type(), false);
  } else if (in.opcode == "slct") {
    in.flush_subnormals = modifiers.take("ftz");
    in.type = modifiers.take_type();
    in.source_type = take_type(in, modifiers, {Type::kS32, Type::kF32});
    if (in.flush_subnormals && in.source_type != Type::kF32) refuse(in, ".ftz requires .f32");
    expect_operands(in, 4, 4);
    in.executor = selection_of(in, in.type, true);
  } else {
    take_comparison(in, modifiers);
    const bool flush = modifiers.take("ftz");
    in.flush_subnormals = flush;
    if (in.opcode == "set") {
      decode_set(in, modifiers);
    } else {
      in.source_type = modifiers.take_type();
      check_comparison(in, in.source_type);
      in.executor = predicate_of(in, in.source_type);
    }
    const bool has_subnormals =
        in.source_type == Type::kF32 || in.source_type == Type::kF16 || in.source_type == Type::kF16x2;
    if (flush && !has_subnormals) refuse(in, ".ftz requires .f32, .f16 or .f16x2");
  }
}

}  // namespace lily::emulator
