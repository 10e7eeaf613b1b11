// Arithmetic on bit patterns of f16 and bf16; `Format` is Half or Bfloat. Every operation rounds once, to nearest even.
#pragma once

#include "core/instructions/float_arithmetic.h"
#include "core/instructions/numbers.h"

namespace lily::emulator {

template <class Format>
bool is_nan_16(uint16_t bits) {
  const float value = Format::widen(bits);
  return value != value;
}

// Effects of .ftz, .sat and .relu.
template <class Format>
uint16_t flush_subnormal_16(uint16_t bits) {
  return (bits & 0x7fff) < Format::kSmallestNormal ? bits & 0x8000 : bits;
}
template <class Format>
uint16_t saturate_16(uint16_t bits) {
  return Format::narrow(saturate(Format::widen(bits)));
}
template <class Format>
uint16_t clamp_negative_16(uint16_t bits) {
  return is_nan_16<Format>(bits) ? kNan16 : bits & 0x8000 ? 0 : bits;
}

// In double, sums are rounded to odd and products are exact, so only one rounding remains.
template <class Format>
uint16_t add_16(uint16_t x, uint16_t y) {
  return Format::narrow(add_to_odd(Format::widen(x), Format::widen(y)));
}
template <class Format>
uint16_t subtract_16(uint16_t x, uint16_t y) {
  return Format::narrow(add_to_odd(Format::widen(x), -Format::widen(y)));
}
template <class Format>
uint16_t multiply_16(uint16_t x, uint16_t y) {
  return Format::narrow(static_cast<double>(Format::widen(x)) * Format::widen(y));
}
template <class Format>
uint16_t fma_16(uint16_t x, uint16_t y, uint16_t z) {
  return Format::narrow(add_to_odd(static_cast<double>(Format::widen(x)) * Format::widen(y), Format::widen(z)));
}

// min and max return one of the operands; only NaNs are replaced.
template <class Format>
uint16_t minimum_16(uint16_t x, uint16_t y, bool propagate_nan, bool magnitude) {
  const float a = Format::widen(x), b = Format::widen(y);
  return Format::narrow(magnitude ? minimum_magnitude(a, b, propagate_nan) : minimum_number(a, b, propagate_nan));
}
template <class Format>
uint16_t maximum_16(uint16_t x, uint16_t y, bool propagate_nan, bool magnitude) {
  const float a = Format::widen(x), b = Format::widen(y);
  return Format::narrow(magnitude ? maximum_magnitude(a, b, propagate_nan) : maximum_number(a, b, propagate_nan));
}

}  // namespace lily::emulator
