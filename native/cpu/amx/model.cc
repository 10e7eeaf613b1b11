#include "cpu/amx/model.h"

namespace lily::cpu {
namespace {

constexpr int64_t kRows = ModelTile::kRows;

float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
bool is_nan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }
uint32_t quiet(uint32_t nan) { return nan | 0x00400000; }

double value_of(uint32_t bits) { return float_of((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits); }

constexpr double kSmallest = 0x1p-126;
constexpr double kRoundsToZero = 0x1p-126 - 0x1p-151;  // magnitudes below it are subnormal after rounding

// In double, a product of two bfloat16 is exact, and its sum with a float32 loses bits only if the smaller term is far
// below half a unit in the last place of the larger one. So the sum, rounded to double and then to float32, is the
// correctly rounded sum.
float rounded(double value) {
  const double magnitude = __builtin_fabs(value);
  const double flushed = magnitude < kRoundsToZero ? 0.0 : kSmallest;
  return static_cast<float>(magnitude < kSmallest ? __builtin_copysign(flushed, value) : value);
}
// Infinity times zero, and infinity minus infinity, are the quiet NaN with the sign bit.
uint32_t rounded_bits(double value) { return value != value ? 0xffc00000 : bits_of(rounded(value)); }

uint32_t multiply_add(uint32_t lhs, uint32_t rhs, uint32_t sum) {
  if (is_nan(lhs)) return quiet(lhs);
  if (is_nan(rhs)) return quiet(rhs);
  if (is_nan(sum)) return quiet(sum);
  return rounded_bits(value_of(lhs) * value_of(rhs) + value_of(sum));
}
uint32_t add(uint32_t a, uint32_t b) {
  if (is_nan(a)) return quiet(a);
  if (is_nan(b)) return quiet(b);
  return rounded_bits(value_of(a) + value_of(b));
}

void add_products(ModelTile &sums, const ModelTile &lhs, const ModelTile &rhs) {
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < 16; ++j) {
      uint32_t even = 0, odd = 0;
      for (int64_t k = 0; k < 16; ++k) {
        even = multiply_add(lhs.rows[i][k] << 16, rhs.rows[k][j] << 16, even);
        odd = multiply_add(lhs.rows[i][k] & 0xffff0000, rhs.rows[k][j] & 0xffff0000, odd);
      }
      sums.rows[i][j] = add(sums.rows[i][j], add(even, odd));
    }
  }
}

// The same, in loops that a compiler can vectorize. If an operand or a result is not finite, `sums` stays as it is and
// the function returns false: an infinity or a NaN does not leave its chain.
bool add_finite_products(ModelTile &sums, const ModelTile &lhs, const ModelTile &rhs) {
  double l[2][kRows][16], r[2][16][16];
  float out[kRows][16];
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t k = 0; k < 16; ++k) {
      l[0][i][k] = value_of(lhs.rows[i][k] << 16);
      l[1][i][k] = value_of(lhs.rows[i][k] & 0xffff0000);
      r[0][i][k] = value_of(rhs.rows[i][k] << 16);
      r[1][i][k] = value_of(rhs.rows[i][k] & 0xffff0000);
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    float chains[2][16] = {};
    for (int64_t k = 0; k < 16; ++k) {
      for (int64_t odd = 0; odd < 2; ++odd) {
        for (int64_t j = 0; j < 16; ++j) {
          chains[odd][j] = rounded(l[odd][i][k] * r[odd][k][j] + static_cast<double>(chains[odd][j]));
        }
      }
    }
    for (int64_t j = 0; j < 16; ++j) {
      const float sum = rounded(static_cast<double>(chains[0][j]) + chains[1][j]);
      out[i][j] = rounded(value_of(sums.rows[i][j]) + sum);
    }
  }
  bool finite = true;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < 16; ++j) finite = finite && (bits_of(out[i][j]) & 0x7f800000) != 0x7f800000;
  }
  if (finite) __builtin_memcpy(&sums, out, sizeof(ModelTile));
  return finite;
}

}  // namespace

void model_dot(ModelTile &sums, const ModelTile &lhs, const ModelTile &rhs) {
  if (!add_finite_products(sums, lhs, rhs)) add_products(sums, lhs, rhs);
}

}  // namespace lily::cpu
