// Rounding of exact real values to any binary format, for the models. It follows the definition in IEEE 754 rather than
// the shortcuts of a fast implementation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/harness.h"

namespace lily::emulator::tests {

enum class Mode { kEven, kZero, kDown, kUp, kAway };  // .rn, .rz, .rm, .rp, .rna

struct Format {
  int exponent_bits, fraction_bits;
  int bits() const { return 1 + exponent_bits + fraction_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  Bits infinity() const { return ((Bits{1} << exponent_bits) - 1) << fraction_bits; }
  Bits sign() const { return Bits{1} << (bits() - 1); }
  Bits nan() const { return infinity() | Bits{1} << (fraction_bits - 1); }
};
constexpr Format kHalf{5, 10}, kBfloat{8, 7}, kFloat{8, 23}, kDouble{11, 52};

inline bool is_nan_of(Format format, Bits bits) { return (bits & ~format.sign()) > format.infinity(); }
// long double must have a 64-bit significand, which represents all values of the formats.
inline long double decode(Format format, Bits bits) {
  const bool negative = bits & format.sign();
  bits &= format.sign() - 1;
  if (bits > format.infinity()) return NAN;
  long double value = INFINITY;
  if (bits != format.infinity()) {
    const int exponent = static_cast<int>(bits >> format.fraction_bits);
    Bits fraction = bits & ((Bits{1} << format.fraction_bits) - 1);
    if (exponent > 0) fraction |= Bits{1} << format.fraction_bits;
    value =
        std::ldexp(static_cast<long double>(fraction), std::max(exponent, 1) - format.bias() - format.fraction_bits);
  }
  return negative ? -value : value;
}

// `rest` is the side of `value` on which the exact result lies: -1, 0 (`value` is exact) or 1.
inline Bits encode(Format format, long double value, Mode mode = Mode::kEven, int rest = 0) {
  if (std::isnan(value)) return format.nan();
  const bool negative = std::signbit(value);
  const Bits sign = negative ? format.sign() : 0;
  const long double magnitude = std::fabs(value);
  const int outward = negative ? -rest : rest;
  if (std::isinf(magnitude)) return sign | format.infinity();
  if (magnitude == 0 && rest == 0) return sign;
  int exponent = magnitude == 0 ? 1 - format.bias() : std::max(std::ilogb(magnitude), 1 - format.bias());
  long double scaled = std::ldexp(magnitude, format.fraction_bits - exponent);
  long double whole = std::floor(scaled);
  long double part = scaled - whole;
  int side = outward;  // of the part relative to a half
  if (part == 0 && outward < 0) {
    // Below a power of two the spacing of the numbers is half as large.
    if (std::ldexp(1.0L, format.fraction_bits) == whole && exponent > 1 - format.bias()) whole *= 2, --exponent;
    whole -= 1;
    part = 1;
    side = -1;
  }
  const bool inexact = part != 0 || outward != 0;
  bool up = false;
  switch (mode) {
    case Mode::kEven:
      up = part > 0.5L || (part == 0.5L && (side > 0 || (side == 0 && std::fmod(whole, 2.0L) == 1)));
      break;
    case Mode::kAway: up = part > 0.5L || (part == 0.5L && side >= 0); break;
    case Mode::kZero: break;
    case Mode::kDown: up = negative && inexact; break;
    case Mode::kUp: up = !negative && inexact; break;
  }
  // A carry out of the fraction increments the exponent.
  Bits result = static_cast<Bits>(whole) + up;
  const Bits unit = Bits{1} << format.fraction_bits;
  if (result >= unit) result = result - unit + (static_cast<Bits>(exponent + format.bias()) << format.fraction_bits);
  if (result >= format.infinity()) {
    const bool to_infinity = mode == Mode::kEven || mode == Mode::kAway || mode == (negative ? Mode::kDown : Mode::kUp);
    result = to_infinity ? format.infinity() : format.infinity() - 1;
  }
  return sign | result;
}

// A sum of zeros of the same sign keeps the sign. Every other zero sum is +0, or -0 when rounding down.
inline Bits encode_sum(Format format, long double value, Mode mode, int rest, bool x_negative, bool y_negative) {
  if (value != 0 || rest != 0) return encode(format, value, mode, rest);
  return (x_negative == y_negative ? x_negative : mode == Mode::kDown) ? format.sign() : 0;
}

}  // namespace lily::emulator::tests
