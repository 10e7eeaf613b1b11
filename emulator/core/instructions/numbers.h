// Number formats of PTX: bit patterns, rounding modes, and the 16-bit formats, for which C++20 has no types.
//
// An operation that produces a NaN returns the canonical NaN of the format, as the hardware does: 0x7fffffff for f32,
// 0x7fff for f16 and bf16. f64 keeps a payload.
#pragma once

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>

namespace lily::emulator {

enum class Rounding : uint8_t { kNearestEven, kZero, kDown, kUp };

inline constexpr uint32_t kNanF32 = 0x7fffffff;
inline constexpr uint16_t kNan16 = 0x7fff;

inline float float_of(uint64_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits)); }
inline double double_of(uint64_t bits) { return std::bit_cast<double>(bits); }
inline uint32_t bits_of(float value) { return value != value ? kNanF32 : std::bit_cast<uint32_t>(value); }
inline uint64_t bits_of(double value) { return std::bit_cast<uint64_t>(value); }

// Evaluates `operation` in the given rounding mode of the CPU. Its operands must be volatile; otherwise the compiler
// may move the operation out.
template <class Operation>
auto with_rounding(Rounding mode, Operation operation) {
  if (mode == Rounding::kNearestEven) return operation();
  std::fesetround(mode == Rounding::kZero ? FE_TOWARDZERO : mode == Rounding::kDown ? FE_DOWNWARD : FE_UPWARD);
  const volatile auto result = operation();
  std::fesetround(FE_TONEAREST);
  return static_cast<decltype(operation())>(result);
}

// Rounds to a 16-bit format with `kMantissa` stored mantissa bits and `kExponent` exponent bits, to nearest even.
// Overflow gives infinity.
template <int kMantissa, int kExponent>
uint16_t narrow_to_16(double value) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  constexpr uint32_t kInfinity = ((1u << kExponent) - 1) << kMantissa;
  const uint64_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 63 << 15);
  if (value != value) return kNan16;
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  if (exponent > kBias) return sign | kInfinity;

  // Below the smallest normal exponent the mantissa loses its implicit bit and one more bit per power of two.
  const int lost = 52 - kMantissa + (exponent < 1 - kBias ? 1 - kBias - exponent : 0);
  if (lost > 54) return sign;
  const uint64_t mantissa = (bits & 0xfffffffffffff) | 1ull << 52;
  uint32_t result = static_cast<uint32_t>(mantissa >> lost);
  const uint64_t rest = mantissa & ((1ull << lost) - 1), half = 1ull << (lost - 1);
  if (exponent >= 1 - kBias) result += static_cast<uint32_t>(exponent + kBias - 1) << kMantissa;
  return sign | static_cast<uint16_t>(result + (rest > half || (rest == half && (result & 1))));
}

// The formats that are the template arguments of the 16-bit executors.
struct Half {
  static float widen(uint64_t bits) {
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13, sign = static_cast<uint32_t>(bits & 0x8000)
                                                                                  << 16;
    // Multiplication by 2^112 corrects the exponent bias and makes subnormals normal.
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
    const bool special = (bits & 0x7c00) == 0x7c00;
    return std::bit_cast<float>(sign | (special ? magnitude | 0x7f800000 : std::bit_cast<uint32_t>(scaled)));
  }
  static uint16_t narrow(double value) { return narrow_to_16<10, 5>(value); }
};

struct Bfloat {
  static float widen(uint64_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits & 0xffff) << 16); }
  static uint16_t narrow(double value) { return narrow_to_16<7, 8>(value); }
};

// tf32 is an f32 whose last 13 mantissa bits are ignored. Ties are rounded away from zero.
inline uint32_t narrow_to_tf32(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return kNanF32;
  return (std::isinf(value) ? bits : bits + 0x1000) & ~0x1fffu;
}

// Integers of the given number of bytes in a 64-bit register.
inline uint64_t zero_extend(uint64_t value, int bytes) {
  return bytes >= 8 ? value : value & ((1ull << (bytes * 8)) - 1);
}
inline int64_t sign_extend(uint64_t value, int bytes) {
  const int shift = 64 - bytes * 8;
  return static_cast<int64_t>(value << shift) >> shift;
}

}  // namespace lily::emulator
