// Integer arithmetic of PTX as functions on C++ integer types of 16, 32 and 64 bits, signed and unsigned.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
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
Int multiply_low(Int x, Int y) {
  return static_cast<Int>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
}
template <class Int>
Int multiply_high(Int x, Int y) {
  using Wide = std::conditional_t<std::is_signed_v<Int>, Int128, UInt128>;
  return static_cast<Int>((static_cast<Wide>(x) * static_cast<Wide>(y)) >> kBits<Int>);
}

template <class Int>
Int add_saturated(Int x, Int y) {
  const Int128 sum = static_cast<Int128>(x) + y;
  if (sum > std::numeric_limits<Int>::max()) return std::numeric_limits<Int>::max();
  if (sum < std::numeric_limits<Int>::min()) return std::numeric_limits<Int>::min();
  return static_cast<Int>(sum);
}
template <class Int>
Int subtract_saturated(Int x, Int y) {
  const Int128 difference = static_cast<Int128>(x) - y;
  if (difference > std::numeric_limits<Int>::max()) return std::numeric_limits<Int>::max();
  if (difference < std::numeric_limits<Int>::min()) return std::numeric_limits<Int>::min();
  return static_cast<Int>(difference);
}

// PTX leaves the result of division by zero unspecified. The hardware returns all ones, and the dividend as the
// remainder.
template <class Int>
Int divide(Int x, Int y) {
  if (y == 0) return static_cast<Int>(-1);
  if (std::is_signed_v<Int> && y == static_cast<Int>(-1)) return subtract<Int>(0, x);
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
template <class Int>
Int absolute(Int x) {
  return x < 0 ? subtract<Int>(0, x) : x;
}

// |x - y| + z
template <class Int>
Int sum_of_difference(Int x, Int y, Int z) {
  return add<Int>(x < y ? subtract<Int>(y, x) : subtract<Int>(x, y), z);
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

// shf: shifts the 64-bit value high:low and returns its upper (left shift) or lower (right shift) word.
inline uint32_t funnel_shift(uint32_t low, uint32_t high, uint32_t amount, bool right, bool wrap) {
  amount = wrap ? amount & 31 : minimum<uint32_t>(amount, 32);
  const uint64_t value = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<uint32_t>(right ? value >> amount : value << amount >> 32);
}

template <class Int>
Int bit_field_extract(Int x, uint32_t position, uint32_t length) {
  using Unsigned = std::make_unsigned_t<Int>;
  constexpr uint32_t kWidth = kBits<Int>;
  position &= 0xff;
  length &= 0xff;
  if (length == 0) return 0;
  const uint32_t sign_position = minimum<uint32_t>(position + length - 1, kWidth - 1);
  const bool fill = std::is_signed_v<Int> && (static_cast<Unsigned>(x) >> sign_position & 1);
  Unsigned field = position >= kWidth ? 0 : static_cast<Unsigned>(static_cast<Unsigned>(x) >> position);
  const uint32_t present = position >= kWidth ? 0 : minimum<uint32_t>(length, kWidth - position);
  if (present >= kWidth) return static_cast<Int>(field);
  const Unsigned mask = static_cast<Unsigned>((Unsigned(1) << present) - 1);
  field &= mask;
  return static_cast<Int>(fill ? field | static_cast<Unsigned>(~mask) : field);
}

// Inserts the lowest `length` bits of x into y at `position`; bits that do not fit are dropped.
template <class Unsigned>
Unsigned bit_field_insert(Unsigned x, Unsigned y, uint32_t position, uint32_t length) {
  constexpr uint32_t kWidth = kBits<Unsigned>;
  position &= 0xff;
  length &= 0xff;
  if (length == 0 || position >= kWidth) return y;
  const Unsigned ones = length >= kWidth ? ~Unsigned(0) : static_cast<Unsigned>((Unsigned(1) << length) - 1);
  const Unsigned mask = static_cast<Unsigned>(ones << position);
  return (y & ~mask) | (static_cast<Unsigned>(x << position) & mask);
}

// Position of the most significant bit that differs from the sign; all ones if there is none. shift: its distance from
// the top bit instead.
template <class Int>
uint32_t find_leading_bit(Int x, bool shift) {
  using Unsigned = std::make_unsigned_t<Int>;
  const Unsigned bits = static_cast<Unsigned>(std::is_signed_v<Int> && x < 0 ? ~x : x);
  if (bits == 0) return 0xffffffff;
  const uint32_t from_top = static_cast<uint32_t>(std::countl_zero(bits));
  return shift ? from_top : kBits<Int> - 1 - from_top;
}

template <class Unsigned>
Unsigned reverse_bits(Unsigned x) {
  Unsigned result = 0;
  for (int i = 0; i < kBits<Unsigned>; ++i, x >>= 1) result = static_cast<Unsigned>(result << 1 | (x & 1));
  return result;
}

// lop3: for each of the 32 bit positions, the result is bit abc of the table.
inline uint32_t logic_of_three(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int row = 0; row < 8; ++row) {
    if (table >> row & 1) result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}

// prmt, default mode: nibble i of the selector names the source of byte i; the nibble's top bit replicates the sign
// instead.
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i);
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

inline int64_t element_of(uint32_t packed, int index, int bits, bool is_signed) {
  const uint32_t value = packed >> (index * bits) & ((1u << bits) - 1);
  return is_signed && value >> (bits - 1) ? static_cast<int64_t>(value) - (1ll << bits) : static_cast<int64_t>(value);
}

// dp4a: dot product of four bytes, added to c with wrap-around.
inline uint32_t dot_product_4(uint32_t a, bool a_signed, uint32_t b, bool b_signed, uint32_t c) {
  int64_t sum = c;
  for (int i = 0; i < 4; ++i) sum += element_of(a, i, 8, a_signed) * element_of(b, i, 8, b_signed);
  return static_cast<uint32_t>(sum);
}
// dp2a: dot product of the two 16-bit elements of a and the lower or upper two bytes of b.
inline uint32_t dot_product_2(uint32_t a, bool a_signed, uint32_t b, bool b_signed, uint32_t c, bool upper) {
  int64_t sum = c;
  for (int i = 0; i < 2; ++i) sum += element_of(a, i, 16, a_signed) * element_of(b, i + 2 * upper, 8, b_signed);
  return static_cast<uint32_t>(sum);
}

// 24-bit products: the lower or upper 32 bits of the 48-bit product of the operands' lower 24 bits.
template <class Int>
Int multiply_24(Int x, Int y, bool high) {
  static_assert(sizeof(Int) == 4);
  const int64_t a = std::is_signed_v<Int> ? static_cast<int32_t>(static_cast<uint32_t>(x) << 8) >> 8 : x & 0xffffff;
  const int64_t b = std::is_signed_v<Int> ? static_cast<int32_t>(static_cast<uint32_t>(y) << 8) >> 8 : y & 0xffffff;
  return static_cast<Int>(static_cast<uint64_t>(a * b) >> (high ? 16 : 0));
}

}  // namespace lily::emulator
