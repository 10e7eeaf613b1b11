// Rows of 32 neighbouring numbers: what one row of a tile of the left operand holds. Loaded, the even and the odd
// columns are separate: then neither widening, nor narrowing to bfloat16, nor interleaving two rows needs more than
// shifts and masks, except for one shuffle on the way back to memory.
#pragma once

#include "cpu/dropout.h"
#include "cpu/simd.h"
#include "cpu/tile.h"

namespace lily::cpu {
namespace {

typedef uint16_t Halves __attribute__((vector_size(64)));  // 32 bfloat16

struct Row {
  Vector even, odd;
};

LILY_INLINE Halves load_halves(const BFloat16 *p) {
  typedef uint16_t Unaligned __attribute__((vector_size(64), aligned(2), may_alias));
  return *reinterpret_cast<const Unaligned *>(p);
}
LILY_INLINE void store_halves(BFloat16 *p, Halves values) {
  typedef uint16_t Unaligned __attribute__((vector_size(64), aligned(2), may_alias));
  *reinterpret_cast<Unaligned *>(p) = values;
}

LILY_INLINE Row widen(Halves values) {
  return {(Vector)((BitVector)values << 16), (Vector)((BitVector)values & 0xffff0000u)};
}

// To nearest, ties to even; subnormal numbers become zeros, NaNs quiet.
LILY_INLINE Halves narrow(Row row) {
#if defined(__AVX512BF16__)
  constexpr Halves kOrder = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (Halves)_mm512_permutexvar_epi16((__m512i)kOrder,
                                          (__m512i)_mm512_cvtne2ps_pbh((__m512)row.odd, (__m512)row.even));
#else
  return (Halves)((round_to_bfloat16(row.odd) & 0xffff0000) | round_to_bfloat16(row.even) >> 16);
#endif
}

// The first `count` numbers of a row, zeros after them.
LILY_INLINE Halves load_halves(const BFloat16 *row, int64_t count) {
  if (count >= 32) return load_halves(row);
#if defined(__AVX512BW__)
  return (Halves)_mm512_maskz_loadu_epi16((1u << count) - 1, row);
#else
  Halves edge = {};
  __builtin_memcpy(&edge, row, static_cast<size_t>(count) * sizeof(BFloat16));
  return edge;
#endif
}
LILY_INLINE Row load_row(const BFloat16 *row, int64_t count) { return widen(load_halves(row, count)); }
template <typename E>
LILY_INLINE Row load_row(const E *row, int64_t count) {
  const Vector first = load_up_to(row, count);
  const Vector second = count > kLanes ? load_up_to(row + kLanes, count - kLanes) : Vector{};
  return {__builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
          __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
}

LILY_INLINE void store_row(BFloat16 *row, Row values, int64_t count) {
  const Halves halves = narrow(values);
  if (count >= 32) {
    store_halves(row, halves);
    return;
  }
#if defined(__AVX512BW__)
  _mm512_mask_storeu_epi16(row, (1u << count) - 1, (__m512i)halves);
#else
  __builtin_memcpy(row, &halves, static_cast<size_t>(count) * sizeof(BFloat16));
#endif
}
LILY_INLINE void store_row(float *row, Row values, int64_t count) {
  store_up_to(row, interleave_first(values.even, values.odd), count);
  if (count > kLanes) store_up_to(row + kLanes, interleave_second(values.even, values.odd), count - kLanes);
}

// Calls body(Element{}) with the element type of a parameter or of its gradient.
template <typename Body>
LILY_INLINE void with_parameter(int32_t dtype, Body body) {
  if (dtype == LILY_FLOAT32 || __is_same(Operand, TileTerms)) {
    body(float{});
  } else {
    if constexpr (!__is_same(Operand, TileTerms)) body(BFloat16{});
  }
}

// row (+)= factor * sums for the first `count` columns, rounded once.
template <typename E>
LILY_INLINE void write_row(E *row, Vector factor, Row sums, int64_t count, bool accumulate) {
  Row value = {factor * sums.even, factor * sums.odd};
  if (accumulate) {
    const Row old = load_row(row, count);
    value = {old.even + value.even, old.odd + value.odd};
  }
  store_row(row, value, count);
}

// 32 numbers as sums of kTerms bfloat16 numbers each.
constexpr int64_t kTerms = Operand::kTerms;
struct Terms {
  Halves term[kTerms];
};

// Each term is the rest of the number after the terms before it, to nearest. If a term is infinite as bfloat16, the
// rest is NaN.
LILY_INLINE Terms terms_of(Row values) {
  Terms terms;
#pragma GCC unroll 2
  for (int64_t t = 0; t < kTerms; ++t) {
    terms.term[t] = narrow(values);
    if (t + 1 == kTerms) break;
    const Row term = widen(terms.term[t]);
    values = {values.even - term.even, values.odd - term.odd};
  }
  return terms;
}

// The terms of `scale` times 32 numbers, zeros after the first `count`.
template <typename E>
LILY_INLINE Terms terms_of(const E *row, int64_t count, float scale) {
  // With several terms, the terms after the first also have the bits of the same numbers in float32.
  if constexpr (kTerms == 1 && __is_same(E, BFloat16)) {
    if (scale == 1.0f) return {{load_halves(row, count)}};
  }
  const Row values = load_row(row, count);
  return terms_of({scale * values.even, scale * values.odd});
}

// The bits of a mask for a row of 32 numbers, from column j on, and the bits of its even columns.
LILY_INLINE uint32_t bits_of_row(const uint8_t *kept, int64_t j) {
  uint32_t bits;
  __builtin_memcpy(&bits, kept + j / 8, sizeof(bits));
  return bits;
}
LILY_INLINE uint32_t even_bits(uint32_t bits) {
  bits &= 0x55555555;
  bits = (bits | bits >> 1) & 0x33333333;
  bits = (bits | bits >> 2) & 0x0f0f0f0f;
  bits = (bits | bits >> 4) & 0x00ff00ff;
  return (bits | bits >> 8) & 0xffff;
}

// Zeros in the place of the numbers whose bit is 0.
LILY_INLINE Halves keep_halves(uint32_t bits, Halves values) {
#if defined(__AVX512BW__)
  return (Halves)_mm512_maskz_mov_epi16(bits, (__m512i)values);
#else
  const auto ones = (Vector)(BitVector{} - 1u);
  const auto even = (BitVector)select_lanes(even_bits(bits), ones, Vector{});
  const auto odd = (BitVector)select_lanes(even_bits(bits >> 1), ones, Vector{});
  return (Halves)((BitVector)values & ((even & 0xffffu) | (odd & 0xffff0000u)));
#endif
}

// The matrices that pack.h reads. `terms(i, j)` returns 32 numbers of row i from column j on, zeros outside of the
// matrix.

template <typename E>
struct ScaledMatrix {
  const E *data;
  int64_t pitch, rows, columns;
  float scale;
  const uint8_t *keeps = nullptr;  // 0: the row counts as zero, because 0 * NaN is NaN; null keeps all rows

  LILY_INLINE Terms terms(int64_t i, int64_t j) const {
    if (i >= rows || j >= columns || (keeps != nullptr && keeps[i] == 0)) return Terms{};
    return terms_of(data + i * pitch + j, columns - j, scale);
  }
};

// A matrix in the type of the activations.
LILY_INLINE ScaledMatrix<Operand::Element> matrix_of(const lily_matrix &matrix, int64_t rows, int64_t columns,
                                                     const uint8_t *keeps = nullptr) {
  return {static_cast<const Operand::Element *>(matrix.data), matrix.pitch, rows, columns, 1.0f, keeps};
}

// The elements of an activation that a mask keeps, and zeros.
struct KeptMatrix : ScaledMatrix<Operand::Element> {
  Mask mask;

  LILY_INLINE Terms terms(int64_t i, int64_t j) const {
    Terms terms = ScaledMatrix::terms(i, j);
    if (i >= rows || j >= columns) return terms;
    const uint32_t bits = bits_of_row(mask.row(i), j);
#pragma GCC unroll 2
    for (int64_t t = 0; t < kTerms; ++t) terms.term[t] = keep_halves(bits, terms.term[t]);
    return terms;
  }
};
LILY_INLINE KeptMatrix kept_matrix_of(const lily_matrix &matrix, int64_t rows, int64_t columns, const Mask &mask) {
  return {matrix_of(matrix, rows, columns), mask};
}

// A part of s C = s sum_e w_e B_e.
template <typename E>
struct CombinedMatrix {
  const E *data;  // the part of B_0
  int64_t pitch, expert_pitch, experts, rows, columns;
  float factors[kMaxExperts];  // s w_e

  LILY_INLINE Row row(int64_t i, int64_t j) const {
    Row sum = {};
    if (i >= rows || j >= columns) return sum;
    for (int64_t e = 0; e < experts; ++e) {
      const Row values = load_row(data + e * expert_pitch + i * pitch + j, columns - j);
      sum.even += factors[e] * values.even;
      sum.odd += factors[e] * values.odd;
    }
    return sum;
  }
  LILY_INLINE Terms terms(int64_t i, int64_t j) const { return terms_of(row(i, j)); }
};

// Calls body(matrix) with the given rows and columns of s C. For a stack that is not transposed.
template <typename Body>
LILY_INLINE void with_combined(const ExpertStack &stack, int64_t group, int64_t column, int64_t columns, Body body) {
  with_parameter(stack.b.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    CombinedMatrix<E> combined = {static_cast<const E *>(stack.b.data) + column,
                                  stack.b.pitch,
                                  stack.rank * stack.b.pitch,
                                  stack.experts,
                                  stack.rank,
                                  columns,
                                  {}};
    for (int64_t e = 0; e < stack.experts; ++e) {
      combined.factors[e] = stack.scaling * stack.weights[group * stack.experts + e];
    }
    body(combined);
  });
}

// Calls body(matrix) with a part of an activation, of a parameter, or of a weight under float32 activations, which may
// have any type, times a factor.
template <typename Body>
LILY_INLINE void with_scaled(const lily_matrix &matrix, int64_t rows, int64_t columns, float scale,
                             const uint8_t *keeps, Body body) {
  const auto of_type = [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    body(ScaledMatrix<E>{static_cast<const E *>(matrix.data), matrix.pitch, rows, columns, scale, keeps});
  };
  if constexpr (__is_same(Operand, TileTerms)) {
    with_element(matrix.dtype, of_type);
  } else {
    with_parameter(matrix.dtype, of_type);
  }
}

}  // namespace
}  // namespace lily::cpu
