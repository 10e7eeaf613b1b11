// f32 and f64 arithmetic: add, sub, mul, fma, div, sqrt; of f32 also rcp, min, max, abs, neg, ex2.approx.ftz.
// Subnormals are supported, except by ex2.
//
// Basic operations and fma are correctly rounded in every rounding mode and match the hardware exactly. ex2 is computed
// to nearly full precision, so hardware results differ in the last bits.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

template <class Number>
Number add(Number x, Number y) {
  return x + y;
}
template <class Number>
Number subtract(Number x, Number y) {
  return x - y;
}
template <class Number>
Number multiply(Number x, Number y) {
  return x * y;
}
template <class Number>
Number divide(Number x, Number y) {
  return x / y;
}
template <class Number>
Number fused(Number x, Number y, Number z) {
  return std::fma(x, y, z);
}
template <class Number>
Number root(Number x) {
  return std::sqrt(x);
}
float reciprocal(float x) { return 1 / x; }

// The functions in the rounding mode of the instruction; unary, binary and ternary of operands.h round to nearest.
template <class Number, Number (*kFunction)(Number)>
void rounded_unary(Thread &thread, const Instruction &in) {
  const volatile Number x = source<Number>(thread, in, 1);
  set_result<Number>(thread, in, with_rounding(in.rounding, [&] { return kFunction(x); }));
}
template <class Number, Number (*kFunction)(Number, Number)>
void rounded_binary(Thread &thread, const Instruction &in) {
  const volatile Number x = source<Number>(thread, in, 1), y = source<Number>(thread, in, 2);
  set_result<Number>(thread, in, with_rounding(in.rounding, [&] { return kFunction(x, y); }));
}
template <class Number, Number (*kFunction)(Number, Number, Number)>
void rounded_ternary(Thread &thread, const Instruction &in) {
  const volatile Number x = source<Number>(thread, in, 1), y = source<Number>(thread, in, 2),
                        z = source<Number>(thread, in, 3);
  set_result<Number>(thread, in, with_rounding(in.rounding, [&] { return kFunction(x, y, z); }));
}

template <class Number, Number (*kFunction)(Number)>
Executor choose_unary(const Instruction &in) {
  expect_operands(in, 2, 2);
  return in.rounding == Rounding::kNearestEven ? unary<Number, kFunction> : rounded_unary<Number, kFunction>;
}
template <class Number, Number (*kFunction)(Number, Number)>
Executor choose_binary(const Instruction &in) {
  expect_operands(in, 3, 3);
  return in.rounding == Rounding::kNearestEven ? binary<Number, kFunction> : rounded_binary<Number, kFunction>;
}

// If one operand is a NaN, min and max return the other. -0 is less than +0.
float minimum(float x, float y) {
  if (x != x || y != y) return x != x ? y : x;
  if (x == y) return std::signbit(x) ? x : y;
  return x < y ? x : y;
}
float maximum(float x, float y) { return -minimum(-x, -y); }

// Signs are changed on the bit pattern, so that a NaN keeps its payload.
uint32_t magnitude(uint32_t bits) { return bits & 0x7fffffff; }
uint32_t negated(uint32_t bits) { return bits ^ 0x80000000; }

// .ftz flushes subnormal operands and results to zero and keeps their sign.
float flush_subnormal(float value) {
  return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}
float exp2(float x) { return flush_subnormal(std::exp2(flush_subnormal(x))); }

template <class Number>
void decode_rounded(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  take_rounding(in, modifiers, name == "fma" || name == "div" || name == "sqrt");
  if (name == "add") in.executor = choose_binary<Number, add<Number>>(in);
  if (name == "sub") in.executor = choose_binary<Number, subtract<Number>>(in);
  if (name == "mul") in.executor = choose_binary<Number, multiply<Number>>(in);
  if (name == "div") in.executor = choose_binary<Number, divide<Number>>(in);
  if (name == "sqrt") in.executor = choose_unary<Number, root<Number>>(in);
  if (name == "fma") {
    expect_operands(in, 4, 4);
    in.executor =
        in.rounding == Rounding::kNearestEven ? ternary<Number, fused<Number>> : rounded_ternary<Number, fused<Number>>;
  }
  if (in.executor == nullptr) refuse(in, "not supported for this type");
}

}  // namespace

void decode_float(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  const Type type = take_type(in, modifiers, {Type::kF32, Type::kF64});
  if (type == Type::kF64) return decode_rounded<double>(in, modifiers);
  if (name == "rcp") {
    take_rounding(in, modifiers, true);
    in.executor = choose_unary<float, reciprocal>(in);
  } else if (name == "min" || name == "max") {
    expect_operands(in, 3, 3);
    in.executor = name == "min" ? binary<float, minimum> : binary<float, maximum>;
  } else if (name == "abs" || name == "neg") {
    expect_operands(in, 2, 2);
    in.executor = name == "abs" ? unary<uint32_t, magnitude> : unary<uint32_t, negated>;
  } else if (name == "ex2") {
    if (!modifiers.take("approx") || !modifiers.take("ftz")) refuse(in, "requires .approx.ftz");
    expect_operands(in, 2, 2);
    in.executor = unary<float, exp2>;
  } else {
    decode_rounded<float>(in, modifiers);
  }
}

}  // namespace lily::emulator
