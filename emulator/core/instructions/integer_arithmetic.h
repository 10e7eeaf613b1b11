// Integer arithmetic of PTX as functions on C++ integer types of 16, 32 and 64 bits, signed and unsigned.
#pragma once

#include <cstdint>
#include <type_traits>

namespace lily::emulator {

__extension__ using Int128 = __int128;
__extension__ using UInt128 = unsigned __int128;

template <class Int>
inline constexpr int kBits = static_cast<int>(sizeof(Int)) * 8;

// Arithmetic wraps around. Signed overflow is undefined in C++, so the computation uses uint64_t.
template <class Int>
Int add(Int x, Int y) {
  return static_cast<Int>(static_cast<uint64_t>(x) + static_cast<uint64_t>(y));
}
template <class Int>
Int subtract(Int x, Int y) {
  return static_cast<Int>(static_cast<uint64_t>(x) - static_cast<uint64_t>(y));
}
template <class Int>
Int negate(Int x) {
  return subtract<Int>(0, x);
}
template <class Int>
Int multiply_low(Int x, Int y) {
  return static_cast<Int>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
}
template <class Int>
Int multiply_high(Int x, Int y) {
  using Wide = std::conditional_t<std::is_signed_v<Int>, Int128, UInt128>;
  return static_cast<Int>((static_cast<Wide>(x) * static_cast<Wide>(y)) >> kBits<Int>);
}
template <class Int>
Int multiply_add_low(Int x, Int y, Int z) {
  return add<Int>(multiply_low(x, y), z);
}

// PTX leaves the result of division by zero unspecified. The hardware returns all ones, and the dividend as the
// remainder.
template <class Int>
Int divide(Int x, Int y) {
  if (y == 0) return static_cast<Int>(-1);
  if (std::is_signed_v<Int> && y == static_cast<Int>(-1)) return negate(x);
  return static_cast<Int>(x / y);
}
template <class Int>
Int remainder_of(Int x, Int y) {
  if (y == 0) return x;
  if (std::is_signed_v<Int> && y == static_cast<Int>(-1)) return 0;
  return static_cast<Int>(x % y);
}

template <class Int>
Int minimum(Int x, Int y) {
  return x < y ? x : y;
}
template <class Int>
Int maximum(Int x, Int y) {
  return x > y ? x : y;
}

// Shift amounts are clamped to the width: a larger shift gives 0, or copies of the sign bit.
template <class Int>
Int shift_left(Int x, uint32_t amount) {
  return amount >= static_cast<uint32_t>(kBits<Int>) ? Int(0) : static_cast<Int>(static_cast<uint64_t>(x) << amount);
}
template <class Int>
Int shift_right(Int x, uint32_t amount) {
  if (amount < static_cast<uint32_t>(kBits<Int>)) return static_cast<Int>(x >> amount);
  return std::is_signed_v<Int> && x < 0 ? static_cast<Int>(-1) : Int(0);
}

// Inserts the lowest `length` bits of x into y at `position`; bits that do not fit are dropped.
inline uint32_t bit_field_insert(uint32_t x, uint32_t y, uint32_t position, uint32_t length) {
  position &= 0xff;
  length &= 0xff;
  if (length == 0 || position >= 32) return y;
  const uint32_t mask = (length >= 32 ? ~0u : (1u << length) - 1) << position;
  return (y & ~mask) | (x << position & mask);
}

}  // namespace lily::emulator
