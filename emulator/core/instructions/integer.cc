// Integer arithmetic: add, sub, mul, mad, div, rem, min, max, neg.
#include "core/instructions/families.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

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

void decode_multiply(Instruction &in, Modifiers &modifiers) {
  const bool wide = modifiers.take("wide"), high = modifiers.take("hi");
  if (!wide && !high && !modifiers.take("lo")) refuse(in, "requires .lo, .hi or .wide");
  const Type type = take_integer_type(in, modifiers);
  expect_operands(in, 3, 3);
  if (wide) {
    in.executor = by_narrow_integer(in, type, [](auto x) -> Executor { return multiply_wide<decltype(x)>; });
    return;
  }
  in.executor = by_integer(in, type, [&](auto x) -> Executor {
    using Int = decltype(x);
    return high ? binary<Int, multiply_high<Int>> : binary<Int, multiply_low<Int>>;
  });
}

void decode_multiply_add(Instruction &in, Modifiers &modifiers) {
  const bool wide = modifiers.take("wide");
  if (!wide && !modifiers.take("lo")) refuse(in, "requires .lo or .wide");
  const Type type = take_integer_type(in, modifiers);
  expect_operands(in, 4, 4);
  if (wide) {
    in.executor = by_narrow_integer(in, type, [](auto x) -> Executor { return multiply_add_wide<decltype(x)>; });
    return;
  }
  in.executor = by_integer(in, type, [](auto x) -> Executor {
    using Int = decltype(x);
    return ternary<Int, multiply_add_low<Int>>;
  });
}

template <class Int>
Executor binary_of(const std::string &name) {
  if (name == "add") return binary<Int, add<Int>>;
  if (name == "sub") return binary<Int, subtract<Int>>;
  if (name == "div") return binary<Int, divide<Int>>;
  if (name == "rem") return binary<Int, remainder_of<Int>>;
  if (name == "min") return binary<Int, minimum<Int>>;
  return name == "max" ? binary<Int, maximum<Int>> : nullptr;
}

}  // namespace

void decode_integer(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "mul") return decode_multiply(in, modifiers);
  if (in.opcode == "mad") return decode_multiply_add(in, modifiers);
  const Type type = take_integer_type(in, modifiers);
  if (in.opcode == "neg") {
    if (!is_signed(type)) refuse(in, "requires a signed type");
    expect_operands(in, 2, 2);
    in.executor = by_integer(in, type, [](auto x) -> Executor {
      using Int = decltype(x);
      return unary<Int, negate<Int>>;
    });
    return;
  }
  expect_operands(in, 3, 3);
  in.executor = by_integer(in, type, [&](auto x) -> Executor { return binary_of<decltype(x)>(in.opcode); });
}

}  // namespace lily::emulator
