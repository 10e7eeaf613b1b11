// Integer arithmetic: add, sub, mul, mad and their forms with carry, 24-bit products, div, rem, min, max, abs, neg,
// sad, dp4a, dp2a.
#include "core/instructions/families.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum Part : uint8_t { kLow, kHigh, kWide };  // of a product
enum Carry : uint8_t { kCarryIn = 1, kCarryOut = 2 };

// The type with twice the width, for products.
template <class Int>
struct WideOf;
template <>
struct WideOf<int16_t> {
  using Type = int32_t;
};
template <>
struct WideOf<uint16_t> {
  using Type = uint32_t;
};
template <>
struct WideOf<int32_t> {
  using Type = int64_t;
};
template <>
struct WideOf<uint32_t> {
  using Type = uint64_t;
};

// add.cc, addc: kCarryIn reads the thread's carry flag, kCarryOut sets it. For subtractions the flag is a borrow.
template <class Unsigned>
void add_with_carry(Thread &thread, const Instruction &in) {
  const UInt128 sum = static_cast<UInt128>(source<Unsigned>(thread, in, 1)) + source<Unsigned>(thread, in, 2) +
                      ((in.variant & kCarryIn) && thread.carry);
  set_result<Unsigned>(thread, in, static_cast<Unsigned>(sum));
  if (in.variant & kCarryOut) thread.carry = sum >> kBits<Unsigned> & 1;
}

template <class Unsigned>
void subtract_with_borrow(Thread &thread, const Instruction &in) {
  const UInt128 difference = static_cast<UInt128>(source<Unsigned>(thread, in, 1)) - source<Unsigned>(thread, in, 2) -
                             ((in.variant & kCarryIn) && thread.carry);
  set_result<Unsigned>(thread, in, static_cast<Unsigned>(difference));
  if (in.variant & kCarryOut) thread.carry = difference >> kBits<Unsigned> & 1;
}

template <class Int>
void multiply_add_with_carry(Thread &thread, const Instruction &in) {
  using Unsigned = std::make_unsigned_t<Int>;
  const Int a = source<Int>(thread, in, 1), b = source<Int>(thread, in, 2);
  const Int product = in.operation == kHigh ? multiply_high(a, b) : multiply_low(a, b);
  const UInt128 sum = static_cast<UInt128>(static_cast<Unsigned>(product)) + source<Unsigned>(thread, in, 3) +
                      ((in.variant & kCarryIn) && thread.carry);
  set_result<Unsigned>(thread, in, static_cast<Unsigned>(sum));
  if (in.variant & kCarryOut) thread.carry = sum >> kBits<Unsigned> & 1;
}

template <class Int>
void multiply_wide(Thread &thread, const Instruction &in) {
  using Wide = typename WideOf<Int>::Type;
  const Wide a = source<Int>(thread, in, 1), b = source<Int>(thread, in, 2);
  set_result<Wide>(thread, in, multiply_low<Wide>(a, b));
}
template <class Int>
void multiply_add_wide(Thread &thread, const Instruction &in) {
  using Wide = typename WideOf<Int>::Type;
  const Wide a = source<Int>(thread, in, 1), b = source<Int>(thread, in, 2);
  set_result<Wide>(thread, in, add<Wide>(multiply_low<Wide>(a, b), source<Wide>(thread, in, 3)));
}

template <class Int>
Int multiply_add_low(Int a, Int b, Int c) {
  return add<Int>(multiply_low(a, b), c);
}
template <class Int>
Int multiply_add_high(Int a, Int b, Int c) {
  return add<Int>(multiply_high(a, b), c);
}
inline int32_t multiply_add_high_saturated(int32_t a, int32_t b, int32_t c) {
  return add_saturated<int32_t>(multiply_high(a, b), c);
}

template <class Int, bool kUpper>
Int multiply_24_part(Int a, Int b) {
  return multiply_24(a, b, kUpper);
}
template <class Int, bool kUpper>
Int multiply_add_24(Int a, Int b, Int c) {
  return add<Int>(multiply_24(a, b, kUpper), c);
}

template <class Int>
Int negate(Int x) {
  return subtract<Int>(0, x);
}

template <class Int, Int (*kChoose)(Int, Int)>
Int choose_not_negative(Int x, Int y) {
  return maximum<Int>(kChoose(x, y), 0);
}

void dot_product_of_4(Thread &thread, const Instruction &in) {
  const uint32_t result =
      dot_product_4(source<uint32_t>(thread, in, 1), is_signed(in.type), source<uint32_t>(thread, in, 2),
                    is_signed(in.source_type), source<uint32_t>(thread, in, 3));
  set_result<uint32_t>(thread, in, result);
}
void dot_product_of_2(Thread &thread, const Instruction &in) {
  const uint32_t result =
      dot_product_2(source<uint32_t>(thread, in, 1), is_signed(in.type), source<uint32_t>(thread, in, 2),
                    is_signed(in.source_type), source<uint32_t>(thread, in, 3), in.operation == kHigh);
  set_result<uint32_t>(thread, in, result);
}

Part take_part(Instruction &in, Modifiers &modifiers) {
  const std::optional<Part> part = modifiers.take_one<Part>({{"lo", kLow}, {"hi", kHigh}, {"wide", kWide}});
  if (!part) refuse(in, "requires .lo, .hi or .wide");
  return *part;
}

uint8_t take_carries(Modifiers &modifiers, bool carry_in) {
  return static_cast<uint8_t>((carry_in ? kCarryIn : 0) | (modifiers.take("cc") ? kCarryOut : 0));
}

// Integer arithmetic has .u and .s types only, no .b types.
Type take_integer_type(const Instruction &in, Modifiers &modifiers) {
  return take_type(in, modifiers, {Type::kU16, Type::kS16, Type::kU32, Type::kS32, Type::kU64, Type::kS64});
}

// The types for which .wide exists: those with an integer type of twice their size.
template <class Make>
Executor by_narrow_integer(const Instruction &in, Type type, Make make) {
  switch (type) {
    case Type::kS16: return make(int16_t{});
    case Type::kU16: return make(uint16_t{});
    case Type::kS32: return make(int32_t{});
    case Type::kU32: return make(uint32_t{});
    default: refuse(in, ".wide requires a 16-bit or 32-bit type");
  }
}

void decode_sum(Instruction &in, Modifiers &modifiers) {
  const bool addition = in.opcode.starts_with("add");
  in.variant = take_carries(modifiers, in.opcode.size() == 4);
  const bool saturated = modifiers.take("sat");
  const Type type = in.type = take_integer_type(in, modifiers);
  expect_operands(in, 3, 3);
  if (in.variant != 0) {
    if (saturated || size_of(type) < 4) refuse(in, "a carry requires a 32-bit or 64-bit type");
    in.executor = by_integer(in, type, [&](auto x) -> Executor {
      using Int = std::make_unsigned_t<decltype(x)>;
      return addition ? add_with_carry<Int> : subtract_with_borrow<Int>;
    });
  } else if (saturated) {
    if (type != Type::kS32) refuse(in, ".sat requires .s32");
    in.executor = addition ? binary<int32_t, add_saturated<int32_t>> : binary<int32_t, subtract_saturated<int32_t>>;
  } else {
    in.executor = by_integer(in, type, [&](auto x) -> Executor {
      using Int = decltype(x);
      return addition ? binary<Int, add<Int>> : binary<Int, subtract<Int>>;
    });
  }
}

void decode_multiply(Instruction &in, Modifiers &modifiers) {
  const Part part = take_part(in, modifiers);
  const Type type = in.type = take_integer_type(in, modifiers);
  expect_operands(in, 3, 3);
  if (part == kWide) {
    in.executor = by_narrow_integer(in, type, [](auto x) -> Executor { return multiply_wide<decltype(x)>; });
    return;
  }
  in.executor = by_integer(in, type, [&](auto x) -> Executor {
    using Int = decltype(x);
    return part == kHigh ? binary<Int, multiply_high<Int>> : binary<Int, multiply_low<Int>>;
  });
}

void decode_multiply_add(Instruction &in, Modifiers &modifiers) {
  in.variant = take_carries(modifiers, in.opcode == "madc");
  const Part part = take_part(in, modifiers);
  in.operation = part;
  const bool saturated = modifiers.take("sat");
  const Type type = in.type = take_integer_type(in, modifiers);
  expect_operands(in, 4, 4);
  if (in.variant != 0) {
    if (saturated || part == kWide || size_of(type) < 4) refuse(in, "this form with a carry is not supported");
    in.executor = by_integer(in, type, [](auto x) -> Executor { return multiply_add_with_carry<decltype(x)>; });
  } else if (saturated) {
    if (type != Type::kS32 || part != kHigh) refuse(in, ".sat requires .hi.s32");
    in.executor = ternary<int32_t, multiply_add_high_saturated>;
  } else if (part == kWide) {
    in.executor = by_narrow_integer(in, type, [](auto x) -> Executor { return multiply_add_wide<decltype(x)>; });
  } else {
    in.executor = by_integer(in, type, [&](auto x) -> Executor {
      using Int = decltype(x);
      return part == kHigh ? ternary<Int, multiply_add_high<Int>> : ternary<Int, multiply_add_low<Int>>;
    });
  }
}

template <class Int>
Executor product_of_24(bool with_sum, bool upper) {
  if (with_sum) return upper ? ternary<Int, multiply_add_24<Int, true>> : ternary<Int, multiply_add_24<Int, false>>;
  return upper ? binary<Int, multiply_24_part<Int, true>> : binary<Int, multiply_24_part<Int, false>>;
}

void decode_24(Instruction &in, Modifiers &modifiers) {
  const Part part = take_part(in, modifiers);
  if (part == kWide) refuse(in, ".wide is not supported");
  const Type type = in.type = take_type(in, modifiers, {Type::kU32, Type::kS32});
  const bool with_sum = in.opcode == "mad24";
  expect_operands(in, with_sum ? 4 : 3, with_sum ? 4 : 3);
  in.executor = type == Type::kS32 ? product_of_24<int32_t>(with_sum, part == kHigh)
                                   : product_of_24<uint32_t>(with_sum, part == kHigh);
}

void decode_dot_product(Instruction &in, Modifiers &modifiers) {
  const bool of_two = in.opcode == "dp2a";
  if (of_two) {
    in.operation = take_part(in, modifiers);
    if (in.operation == kWide) refuse(in, "requires .lo or .hi");
  }
  in.type = take_type(in, modifiers, {Type::kU32, Type::kS32});
  in.source_type = take_type(in, modifiers, {Type::kU32, Type::kS32});
  expect_operands(in, 4, 4);
  in.executor = of_two ? dot_product_of_2 : dot_product_of_4;
}

void decode_choice(Instruction &in, Modifiers &modifiers) {
  const bool is_minimum = in.opcode == "min", relu = modifiers.take("relu");
  const Type type = in.type = take_integer_type(in, modifiers);
  expect_operands(in, 3, 3);
  if (relu) {
    if (type != Type::kS32) refuse(in, ".relu requires .s32");
    in.executor = is_minimum ? binary<int32_t, choose_not_negative<int32_t, minimum<int32_t>>>
                             : binary<int32_t, choose_not_negative<int32_t, maximum<int32_t>>>;
    return;
  }
  in.executor = by_integer(in, type, [&](auto x) -> Executor {
    using Int = decltype(x);
    return is_minimum ? binary<Int, minimum<Int>> : binary<Int, maximum<Int>>;
  });
}

}  // namespace

void decode_integer(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  if (name == "add" || name == "addc" || name == "sub" || name == "subc") return decode_sum(in, modifiers);
  if (name == "mul") return decode_multiply(in, modifiers);
  if (name == "mad" || name == "madc") return decode_multiply_add(in, modifiers);
  if (name == "mul24" || name == "mad24") return decode_24(in, modifiers);
  if (name == "dp4a" || name == "dp2a") return decode_dot_product(in, modifiers);
  if (name == "min" || name == "max") return decode_choice(in, modifiers);

  const Type type = in.type = take_integer_type(in, modifiers);
  if (name == "div" || name == "rem") {
    expect_operands(in, 3, 3);
    in.executor = by_integer(in, type, [&](auto x) -> Executor {
      using Int = decltype(x);
      return name == "div" ? binary<Int, divide<Int>> : binary<Int, remainder_of<Int>>;
    });
  } else if (name == "abs" || name == "neg") {
    if (!is_signed(type)) refuse(in, "requires a signed type");
    expect_operands(in, 2, 2);
    in.executor = by_integer(in, type, [&](auto x) -> Executor {
      using Int = decltype(x);
      return name == "abs" ? unary<Int, absolute<Int>> : unary<Int, negate<Int>>;
    });
  } else if (name == "sad") {
    expect_operands(in, 4, 4);
    in.executor = by_integer(in, type, [](auto x) -> Executor {
      using Int = decltype(x);
      return ternary<Int, sum_of_difference<Int>>;
    });
  }
}

}  // namespace lily::emulator
