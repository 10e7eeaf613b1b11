// f64 arithmetic: add, sub, mul, fma, mad, div, min, max, abs, neg, rcp, sqrt, rsqrt, copysign. Subnormals are
// supported.
#include "core/instructions/families.h"
#include "core/instructions/float_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

template <double (*kFunction)(double, Rounding)>
void rounded_unary(Thread &thread, const Instruction &in) {
  set_result<double>(thread, in, kFunction(source<double>(thread, in, 1), in.rounding));
}
template <double (*kFunction)(double, double, Rounding)>
void rounded_binary(Thread &thread, const Instruction &in) {
  set_result<double>(thread, in, kFunction(source<double>(thread, in, 1), source<double>(thread, in, 2), in.rounding));
}
void fma_double(Thread &thread, const Instruction &in) {
  set_result<double>(thread, in,
                     fma_rounded(source<double>(thread, in, 1), source<double>(thread, in, 2),
                                 source<double>(thread, in, 3), in.rounding));
}

double reciprocal(double x, Rounding mode) { return divide_rounded(1.0, x, mode); }
double reciprocal_root(double x) { return 1 / std::sqrt(x); }
// .approx.ftz reads and writes only the upper 32 bits. Hardware results differ in the last bits.
double upper_half(double x) { return double_of(bits_of(flush_subnormal(x)) & 0xffffffff00000000); }
double reciprocal_gross(double x) { return upper_half(1 / upper_half(x)); }
double reciprocal_root_gross(double x) { return upper_half(1 / std::sqrt(upper_half(x))); }

double minimum(double x, double y) { return minimum_number(x, y, false); }
double maximum(double x, double y) { return maximum_number(x, y, false); }

uint64_t magnitude(uint64_t bits) { return bits & ~(1ull << 63); }
uint64_t negated(uint64_t bits) { return bits ^ 1ull << 63; }
uint64_t copy_sign(uint64_t sign, uint64_t number) { return (sign & 1ull << 63) | magnitude(number); }

}  // namespace

void decode_float64(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  take_type(in, modifiers, {Type::kF64});
  if (name == "add" || name == "sub" || name == "mul" || name == "div") {
    take_rounding(in, modifiers, name == "div");
    expect_operands(in, 3, 3);
    in.executor = name == "add"   ? rounded_binary<add_rounded<double>>
                  : name == "sub" ? rounded_binary<subtract_rounded<double>>
                  : name == "mul" ? rounded_binary<multiply_rounded<double>>
                                  : rounded_binary<divide_rounded<double>>;
  } else if (name == "fma" || name == "mad") {
    take_rounding(in, modifiers, true);
    expect_operands(in, 4, 4);
    in.executor = fma_double;
  } else if (name == "min" || name == "max") {
    expect_operands(in, 3, 3);
    in.executor = name == "min" ? binary<double, minimum> : binary<double, maximum>;
  } else if (name == "copysign") {
    expect_operands(in, 3, 3);
    in.executor = binary<uint64_t, copy_sign>;
  } else if (name == "abs" || name == "neg") {
    expect_operands(in, 2, 2);
    in.executor = name == "abs" ? unary<uint64_t, magnitude> : unary<uint64_t, negated>;
  } else if (name == "rcp" && modifiers.take("approx")) {
    if (!modifiers.take("ftz")) refuse(in, "requires .ftz");
    expect_operands(in, 2, 2);
    in.executor = unary<double, reciprocal_gross>;
  } else if (name == "rcp" || name == "sqrt") {
    take_rounding(in, modifiers, true);
    expect_operands(in, 2, 2);
    in.executor = name == "rcp" ? rounded_unary<reciprocal> : rounded_unary<sqrt_rounded<double>>;
  } else if (name == "rsqrt") {
    if (!modifiers.take("approx")) refuse(in, "requires .approx");
    expect_operands(in, 2, 2);
    in.executor = modifiers.take("ftz") ? unary<double, reciprocal_root_gross> : unary<double, reciprocal_root>;
  } else {
    refuse(in, "not supported for .f64");
  }
}

}  // namespace lily::emulator
