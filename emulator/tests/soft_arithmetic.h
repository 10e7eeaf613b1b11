// Exact arithmetic for any format: a long double plus the side on which the exact result lies, then one rounding.
#pragma once

#include "tests/soft_float.h"

namespace lily::emulator::tests {

using Real = long double;

inline int side_of(Real error) { return error > 0 ? 1 : error < 0 ? -1 : 0; }

inline Bits soft_add(Format format, Real x, Real y, Mode mode) {
  const Real sum = x + y;
  if (!std::isfinite(sum)) return encode(format, sum);
  const Real back = sum - x, error = (x - (sum - back)) + (y - back);
  return encode_sum(format, sum, mode, side_of(error), std::signbit(x), std::signbit(y));
}

// A product of two doubles has 106 bits; the bits that the long double lacks only affect the rounding.
inline Bits soft_multiply(Format format, Real x, Real y, Mode mode) {
  const Real product = x * y;
  if (!std::isfinite(product)) return encode(format, product);
  return encode(format, product, mode, side_of(std::fma(x, y, -product)));
}

// For formats whose products are exact in a long double.
inline Bits soft_fma(Format format, Real x, Real y, Real z, Mode mode) { return soft_add(format, x * y, z, mode); }

inline Bits soft_divide(Format format, Real x, Real y, Mode mode) {
  const Real quotient = x / y;
  if (!std::isfinite(quotient) || std::isinf(y)) return encode(format, quotient);
  const int side = side_of(std::fma(-quotient, y, x));
  return encode(format, quotient, mode, y < 0 ? -side : side);
}

inline Bits soft_root(Format format, Real x, Mode mode) {
  const Real root = std::sqrt(x);
  if (!std::isfinite(root) || root == 0) return encode(format, root);
  return encode(format, root, mode, side_of(std::fma(-root, root, x)));
}

// min, max: the result is a NaN if both operands are, or if `propagate_nan` is set and one is. -0 is less than +0.
inline Bits soft_choose(Format format, Bits a, Bits b, bool greatest, bool propagate_nan) {
  const bool a_nan = is_nan_of(format, a), b_nan = is_nan_of(format, b);
  if (a_nan || b_nan) return (propagate_nan || (a_nan && b_nan)) ? format.nan() : a_nan ? b : a;
  const Real x = decode(format, a), y = decode(format, b);
  const bool a_below = x < y || (x == y && std::signbit(x));
  return a_below != greatest ? a : b;
}

// .sat: clamps to [0, 1]; a NaN becomes +0.
inline Bits soft_saturate(Format format, Bits bits) {
  if (is_nan_of(format, bits) || bits & format.sign()) return 0;
  const Bits one = static_cast<Bits>(format.bias()) << format.fraction_bits;
  return std::min(bits, one);
}

}  // namespace lily::emulator::tests
