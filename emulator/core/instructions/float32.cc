// f32 arithmetic: add, sub, mul, fma, mad, div, min, max, abs, neg, rcp, sqrt, rsqrt, ex2, lg2, sin, cos, tanh,
// copysign, testp.
//
// .ftz flushes subnormal operands and results to zero and keeps their sign; .sat clamps the result to [0, 1].
#include "core/instructions/families.h"
#include "core/instructions/float_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

float operand(const Thread &thread, const Instruction &in, int index) {
  const float value = source<float>(thread, in, index);
  return in.flush_subnormals ? flush_subnormal(value) : value;
}
void finish(Thread &thread, const Instruction &in, float value) {
  if (in.flush_subnormals) value = flush_subnormal(value);
  if (in.saturate) value = saturate(value);
  set_result<float>(thread, in, value);
}

template <float (*kFunction)(float)>
void approximate(Thread &thread, const Instruction &in) {
  finish(thread, in, kFunction(operand(thread, in, 1)));
}
template <float (*kFunction)(float, Rounding)>
void rounded_unary(Thread &thread, const Instruction &in) {
  finish(thread, in, kFunction(operand(thread, in, 1), in.rounding));
}
template <float (*kFunction)(float, float, Rounding)>
void rounded_binary(Thread &thread, const Instruction &in) {
  finish(thread, in, kFunction(operand(thread, in, 1), operand(thread, in, 2), in.rounding));
}
void fma_float(Thread &thread, const Instruction &in) {
  finish(thread, in, fma_rounded(operand(thread, in, 1), operand(thread, in, 2), operand(thread, in, 3), in.rounding));
}
void divide_fast(Thread &thread, const Instruction &in) {
  finish(thread, in, divide_approx(operand(thread, in, 1), operand(thread, in, 2)));
}

// Fast path for the most frequent case: rounding to nearest, no modifiers.
float add_nearest(float x, float y) { return x + y; }
float subtract_nearest(float x, float y) { return x - y; }
float multiply_nearest(float x, float y) { return x * y; }
float fma_nearest(float x, float y, float z) { return std::fma(x, y, z); }

float reciprocal(float x, Rounding mode) { return divide_rounded(1.0f, x, mode); }

template <float (*kNumber)(float, float, bool), float (*kMagnitude)(float, float, bool)>
void choose(Thread &thread, const Instruction &in) {
  const float x = operand(thread, in, 1), y = operand(thread, in, 2);
  finish(thread, in, in.flag ? kMagnitude(x, y, in.propagate_nan) : kNumber(x, y, in.propagate_nan));
}

// Signs are changed on the bit pattern, so that a NaN keeps its payload.
template <uint32_t kKeep, uint32_t kFlip>
void change_sign(Thread &thread, const Instruction &in) {
  uint32_t bits = source<uint32_t>(thread, in, 1);
  if (in.flush_subnormals && (bits & 0x7f800000) == 0) bits &= 0x80000000;
  set_result<uint32_t>(thread, in, (bits & kKeep) ^ kFlip);
}
// copysign d, a, b: magnitude of b with the sign of a.
uint32_t copy_sign(uint32_t sign, uint32_t magnitude) { return (sign & 0x80000000) | (magnitude & 0x7fffffff); }

template <class Number>
void test_property(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], is_of_class(source<Number>(thread, in, 1), static_cast<FloatClass>(in.operation)));
}

bool is_plain(const Instruction &in) {
  return in.rounding == Rounding::kNearestEven && !in.flush_subnormals && !in.saturate;
}

void decode_sum_or_product(Instruction &in, Modifiers &modifiers) {
  take_rounding(in, modifiers, false);
  in.saturate = modifiers.take("sat");
  expect_operands(in, 3, 3);
  const bool plain = is_plain(in);
  if (in.opcode == "add") in.executor = plain ? binary<float, add_nearest> : rounded_binary<add_rounded<float>>;
  if (in.opcode == "sub")
    in.executor = plain ? binary<float, subtract_nearest> : rounded_binary<subtract_rounded<float>>;
  if (in.opcode == "mul")
    in.executor = plain ? binary<float, multiply_nearest> : rounded_binary<multiply_rounded<float>>;
}

void decode_root_or_reciprocal(Instruction &in, Modifiers &modifiers) {
  expect_operands(in, 2, 2);
  // Approximate results are computed as correctly rounded ones.
  if (!modifiers.take("approx")) take_rounding(in, modifiers, true);
  in.executor = in.opcode == "rcp" ? rounded_unary<reciprocal> : rounded_unary<sqrt_rounded<float>>;
}

void decode_division(Instruction &in, Modifiers &modifiers) {
  expect_operands(in, 3, 3);
  if (modifiers.take("approx")) {
    in.executor = divide_fast;
  } else {
    if (!modifiers.take("full")) take_rounding(in, modifiers, true);
    in.executor = rounded_binary<divide_rounded<float>>;
  }
}

void decode_approximate(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("approx")) refuse(in, "requires .approx");
  expect_operands(in, 2, 2);
  const std::string &name = in.opcode;
  if (name == "rsqrt") in.executor = approximate<rsqrt_approx>;
  if (name == "ex2") in.executor = approximate<exp2_approx>;
  if (name == "lg2") in.executor = approximate<log2_approx>;
  if (name == "sin") in.executor = approximate<sin_approx>;
  if (name == "cos") in.executor = approximate<cos_approx>;
  if (name == "tanh") in.executor = approximate<tanh_approx>;
}

}  // namespace

void decode_float32(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  take_type(in, modifiers, {Type::kF32});
  if (name == "copysign") {
    expect_operands(in, 3, 3);
    in.executor = binary<uint32_t, copy_sign>;
    return;
  }
  if (name == "tanh") return decode_approximate(in, modifiers);  // tanh has no .ftz
  in.flush_subnormals = modifiers.take("ftz");
  if (name == "add" || name == "sub" || name == "mul") {
    decode_sum_or_product(in, modifiers);
  } else if (name == "fma" || name == "mad") {
    take_rounding(in, modifiers, true);
    in.saturate = modifiers.take("sat");
    expect_operands(in, 4, 4);
    in.executor = is_plain(in) ? ternary<float, fma_nearest> : fma_float;
  } else if (name == "div") {
    decode_division(in, modifiers);
  } else if (name == "rcp" || name == "sqrt") {
    decode_root_or_reciprocal(in, modifiers);
  } else if (name == "min" || name == "max") {
    in.propagate_nan = modifiers.take("NaN");
    in.flag = modifiers.take("xorsign");
    if (in.flag && !modifiers.take("abs")) refuse(in, ".xorsign requires .abs");
    expect_operands(in, 3, 3);
    in.executor = name == "min" ? choose<minimum_number<float>, minimum_magnitude<float>>
                                : choose<maximum_number<float>, maximum_magnitude<float>>;
  } else if (name == "abs" || name == "neg") {
    expect_operands(in, 2, 2);
    in.executor = name == "abs" ? change_sign<0x7fffffff, 0> : change_sign<0xffffffff, 0x80000000>;
  } else {
    decode_approximate(in, modifiers);
  }
}

void decode_test(Instruction &in, Modifiers &modifiers) {
  const std::optional<FloatClass> float_class = modifiers.take_one<FloatClass>({{"finite", FloatClass::kFinite},
                                                                                {"infinite", FloatClass::kInfinite},
                                                                                {"number", FloatClass::kNumber},
                                                                                {"notanumber", FloatClass::kNotANumber},
                                                                                {"normal", FloatClass::kNormal},
                                                                                {"subnormal", FloatClass::kSubnormal}});
  if (!float_class) refuse(in, "the property to test is missing");
  in.operation = static_cast<uint8_t>(*float_class);
  const Type type = take_type(in, modifiers, {Type::kF32, Type::kF64});
  expect_operands(in, 2, 2);
  in.executor = type == Type::kF32 ? test_property<float> : test_property<double>;
}

}  // namespace lily::emulator
