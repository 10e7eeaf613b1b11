// Comparisons and selections: setp, selp.
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
};

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
  }
  return false;
}

template <class Value>
void set_predicate(Thread &thread, const Instruction &in) {
  const bool result =
      compare(static_cast<Comparison>(in.operation), source<Value>(thread, in, 1), source<Value>(thread, in, 2));
  thread.set_register(in.operands[0].reg, result);
  thread.set_register(in.operands[0].second, !result);
}

template <class Int>
void select(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, source<Int>(thread, in, thread.predicate(in.operands[3]) ? 1 : 2));
}

Comparison take_comparison(Instruction &in, Modifiers &modifiers) {
  const std::optional<Comparison> comparison = modifiers.take_one<Comparison>({{"eq", kEqual},
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
                                                                               {"geu", kGreaterEqualU}});
  if (!comparison) refuse(in, "the comparison is missing or not supported");
  return *comparison;
}

void decode_setp(Instruction &in, Modifiers &modifiers) {
  in.operation = take_comparison(in, modifiers);
  const Type type = modifiers.take_type();
  expect_operands(in, 3, 3);
  // .b types support only eq and ne; integer types have no comparisons for NaNs.
  const bool allowed = is_float(type) || in.operation <= (is_bits(type) ? kNotEqual : kGreaterEqual);
  if (!allowed) refuse(in, "the comparison does not exist for ." + std::string(name_of(type)));
  in.executor = type == Type::kF32
                    ? set_predicate<float>
                    : by_integer(in, type, [](auto x) -> Executor { return set_predicate<decltype(x)>; });
}

// Copies bits, so float types use the integer of their size.
void decode_selp(Instruction &in, Modifiers &modifiers) {
  const Type type = modifiers.take_type();
  expect_operands(in, 4, 4);
  const Type bits = type == Type::kF32 ? Type::kB32 : type == Type::kF64 ? Type::kB64 : type;
  in.executor = by_integer(in, bits, [](auto x) -> Executor { return select<decltype(x)>; });
}

}  // namespace

void decode_compare(Instruction &in, Modifiers &modifiers) {
  in.opcode == "setp" ? decode_setp(in, modifiers) : decode_selp(in, modifiers);
}

}  // namespace lily::emulator
