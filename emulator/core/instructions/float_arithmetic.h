// Floating-point arithmetic of PTX as functions on float and double.
//
// Basic operations and fma are correctly rounded in every rounding mode and match the hardware exactly. The approximate
// functions (.approx, .full) are computed to nearly full precision, so hardware results differ in the last bits.
#pragma once

#include "core/instructions/numbers.h"

namespace lily::emulator {

template <class Number>
Number add_rounded(Number x, Number y, Rounding mode) {
  const volatile Number a = x, b = y;
  return with_rounding(mode, [&] { return a + b; });
}
template <class Number>
Number subtract_rounded(Number x, Number y, Rounding mode) {
  const volatile Number a = x, b = y;
  return with_rounding(mode, [&] { return a - b; });
}
template <class Number>
Number multiply_rounded(Number x, Number y, Rounding mode) {
  const volatile Number a = x, b = y;
  return with_rounding(mode, [&] { return a * b; });
}
template <class Number>
Number divide_rounded(Number x, Number y, Rounding mode) {
  const volatile Number a = x, b = y;
  return with_rounding(mode, [&] { return a / b; });
}
template <class Number>
Number fma_rounded(Number x, Number y, Number z, Rounding mode) {
  const volatile Number a = x, b = y, c = z;
  return with_rounding(mode, [&] { return std::fma(Number(a), Number(b), Number(c)); });
}
template <class Number>
Number sqrt_rounded(Number x, Rounding mode) {
  const volatile Number a = x;
  return with_rounding(mode, [&] { return std::sqrt(Number(a)); });
}

// If one operand is a NaN, min and max return the other; if both are, a NaN. With .NaN they return a NaN in either
// case. -0 is less than +0.
template <class Number>
Number minimum_number(Number x, Number y, bool propagate_nan) {
  if (x != x || y != y) return propagate_nan ? std::numeric_limits<Number>::quiet_NaN() : x != x ? y : x;
  if (x == y) return std::signbit(x) ? x : y;
  return x < y ? x : y;
}
template <class Number>
Number maximum_number(Number x, Number y, bool propagate_nan) {
  if (x != x || y != y) return propagate_nan ? std::numeric_limits<Number>::quiet_NaN() : x != x ? y : x;
  if (x == y) return std::signbit(x) ? y : x;
  return x > y ? x : y;
}

// .xorsign.abs: compares magnitudes; the sign of the result is the XOR of the operands' signs.
template <class Number>
Number minimum_magnitude(Number x, Number y, bool propagate_nan) {
  const Number magnitude = minimum_number(std::abs(x), std::abs(y), propagate_nan);
  return magnitude != magnitude ? magnitude
                                : std::copysign(magnitude, std::signbit(x) != std::signbit(y) ? Number(-1) : Number(1));
}
template <class Number>
Number maximum_magnitude(Number x, Number y, bool propagate_nan) {
  const Number magnitude = maximum_number(std::abs(x), std::abs(y), propagate_nan);
  return magnitude != magnitude ? magnitude
                                : std::copysign(magnitude, std::signbit(x) != std::signbit(y) ? Number(-1) : Number(1));
}

// Approximate functions. rsqrt is computed in double, so that the result is rounded only once.
inline float rsqrt_approx(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }
inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float sin_approx(float x) { return std::sin(x); }
inline float cos_approx(float x) { return std::cos(x); }
inline float tanh_approx(float x) { return std::tanh(x); }

// div.approx: a divisor above 2^126 gives 0, or a NaN for an infinite dividend, because its reciprocal is subnormal.
inline float divide_approx(float x, float y) {
  if (std::abs(y) > 0x1p126f && std::isfinite(y)) {
    return std::isinf(x) ? std::numeric_limits<float>::quiet_NaN() : std::copysign(0.0f, x) * std::copysign(1.0f, y);
  }
  return x / y;
}

enum class FloatClass : uint8_t { kFinite, kInfinite, kNumber, kNotANumber, kNormal, kSubnormal };

// testp. Unlike std::isnormal, it counts zero as normal.
template <class Number>
bool is_of_class(Number x, FloatClass float_class) {
  switch (float_class) {
    case FloatClass::kFinite: return std::isfinite(x);
    case FloatClass::kInfinite: return std::isinf(x);
    case FloatClass::kNumber: return x == x;
    case FloatClass::kNotANumber: return x != x;
    case FloatClass::kNormal: return std::isnormal(x) || x == 0;
    default: return std::fpclassify(x) == FP_SUBNORMAL;
  }
}

}  // namespace lily::emulator
