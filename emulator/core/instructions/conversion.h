// Conversions between number types as defined for cvt.
#pragma once

#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/numbers.h"

namespace lily::emulator {

// Rounds to an integral value and keeps the sign of zero.
inline double round_to_integer(double value, Rounding mode) {
  switch (mode) {
    case Rounding::kZero: return std::trunc(value);
    case Rounding::kDown: return std::floor(value);
    case Rounding::kUp: return std::ceil(value);
    default: return std::nearbyint(value);
  }
}

// A value out of range becomes the nearest limit. A NaN becomes 0, except with a 64-bit destination or an f64 source:
// then only the top bit of the result is set.
inline uint64_t float_to_integer(double value, bool is_signed, int bytes, bool wide_source, Rounding mode) {
  const int bits = bytes * 8;
  if (value != value) return wide_source || bytes == 8 ? 1ull << (bits - 1) : 0;
  const double integer = round_to_integer(value, mode);
  const double limit = std::ldexp(1.0, is_signed ? bits - 1 : bits);
  if (is_signed) {
    if (integer >= limit) return (1ull << (bits - 1)) - 1;
    if (integer < -limit) return static_cast<uint64_t>(-1) << (bits - 1);
    return static_cast<uint64_t>(static_cast<int64_t>(integer));
  }
  if (integer >= limit) return zero_extend(~0ull, bytes);
  return integer < 0 ? 0 : static_cast<uint64_t>(integer);
}

// Integer to integer: the low bits or, with .sat, the nearest representable value, extended according to the
// destination's sign.
inline uint64_t integer_to_integer(uint64_t value, bool from_signed, int from_bytes, bool to_signed, int to_bytes,
                                   bool saturated) {
  Int128 integer = from_signed ? static_cast<Int128>(sign_extend(value, from_bytes))
                               : static_cast<Int128>(zero_extend(value, from_bytes));
  if (saturated) {
    const Int128 largest = (static_cast<Int128>(1) << (to_bytes * 8 - to_signed)) - 1;
    const Int128 smallest = to_signed ? -largest - 1 : 0;
    integer = integer < smallest ? smallest : integer > largest ? largest : integer;
  }
  const uint64_t low = static_cast<uint64_t>(integer);
  return to_signed ? static_cast<uint64_t>(sign_extend(low, to_bytes)) : zero_extend(low, to_bytes);
}

template <class Number>
Number integer_to_float(uint64_t value, bool is_signed, int bytes, Rounding mode) {
  if (is_signed) {
    const volatile int64_t integer = sign_extend(value, bytes);
    return with_rounding(mode, [&] { return static_cast<Number>(integer); });
  }
  const uint64_t integer = zero_extend(value, bytes);
  // The compiler halves large unsigned numbers before the conversion and keeps the lost bit, so the result is rounded
  // once.
  const volatile uint64_t guarded = integer;
  return with_rounding(mode, [&] { return static_cast<Number>(guarded); });
}

inline float double_to_float(double value, Rounding mode) {
  const volatile double guarded = value;
  return with_rounding(mode, [&] { return static_cast<float>(guarded); });
}

// An integer of up to 64 bits as a double rounded to odd, from which a 16-bit format is rounded.
inline double integer_to_odd(uint64_t value, bool is_signed, int bytes) {
  const bool negative = is_signed && sign_extend(value, bytes) < 0;
  uint64_t magnitude = zero_extend(value, bytes);
  if (negative) magnitude = 0 - static_cast<uint64_t>(sign_extend(value, bytes));
  const int excess = 64 - std::countl_zero(magnitude) - 53;
  if (excess > 0) {
    const uint64_t lost = magnitude & ((1ull << excess) - 1);
    magnitude = (magnitude >> excess | (lost != 0)) << excess;
  }
  return negative ? -static_cast<double>(magnitude) : static_cast<double>(magnitude);
}

}  // namespace lily::emulator
