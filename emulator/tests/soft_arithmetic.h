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

}  // namespace lily::emulator::tests
