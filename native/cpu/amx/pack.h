// The layouts of packed operands. A step is 32 values of k; for each term it takes two tiles of 1 KiB, for 32 rows or
// columns.
//
//   rhs   [panel of 32 columns][step][term][2 tiles]: a tile has 16 columns, in pairs of k (see hardware.h). In order,
//         the first tile has columns 0 to 15 of the panel; if they belong to an activation, the even ones
//   lhs   [block of 32 rows][step][term][2 tiles]: a tile has 16 rows. For an operand that had to be transposed, or has
//         several terms; others are read in place
//
// Rows of activations are split in registers in any case (rows.h).
#pragma once

#include "cpu/amx/rows.h"

namespace lily::cpu {
namespace {

constexpr int64_t kStepDepth = 32;    // values of k per tile of a left operand
constexpr int64_t kTileHalves = 512;  // bfloat16 per tile
constexpr int64_t kTermHalves = 2 * kTileHalves;
constexpr int64_t kStepHalves = kTerms * kTermHalves;

LILY_INLINE int64_t tile_steps(int64_t depth) { return (depth + kStepDepth - 1) / kStepDepth; }

// The pairs of two rows.
template <Columns kColumns>
LILY_INLINE void pair_rows(Halves upper, Halves lower, Halves &first, Halves &second) {
  if constexpr (kColumns == Columns::kOfActivation) {
    first = (Halves)(((BitVector)upper & 0xffffu) | (BitVector)lower << 16);
    second = (Halves)((BitVector)upper >> 16 | ((BitVector)lower & 0xffff0000u));
  } else {
    first = __builtin_shufflevector(upper, lower, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41,
                                    10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
    second = __builtin_shufflevector(upper, lower, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24,
                                     56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
  }
}

// A matrix whose rows are k, as rhs. Panels are `panel_pitch` numbers apart.
template <Columns kColumns, typename Matrix>
LILY_INLINE void pack_rhs(const Matrix &in, int64_t steps, BFloat16 *out, int64_t panel_pitch) {
  for (int64_t k = 0; k < steps * kStepDepth; k += 2) {
    BFloat16 *to = out + k / kStepDepth * kStepHalves + k % kStepDepth / 2 * 32;
    for (int64_t j = 0; j < in.columns; j += 32) {
      const Terms upper = in.terms(k, j), lower = in.terms(k + 1, j);
#pragma GCC unroll 2
      for (int64_t t = 0; t < kTerms; ++t) {
        Halves first, second;
        pair_rows<kColumns>(upper.term[t], lower.term[t], first, second);
        store_halves(to + t * kTermHalves, first);
        store_halves(to + t * kTermHalves + kTileHalves, second);
      }
      to += panel_pitch;
    }
  }
}

// A matrix whose columns are k, as one panel of rhs: its rows from `row` on are the columns of the panel.
template <Columns kColumns, typename Matrix>
LILY_INLINE void pack_rhs_transposed(const Matrix &in, int64_t row, int64_t steps, BFloat16 *out) {
  const int64_t columns = in.rows - row;
  // The second tile of at most 16 columns in order is not read.
  const int64_t tiles = kColumns == Columns::kInOrder && columns <= 16 ? 1 : 2;
  for (int64_t k = 0; k < steps; ++k) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      Vector squares[kTerms][16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t column = kColumns == Columns::kInOrder ? tile * 16 + i : 2 * i + tile;
        const Terms terms = in.terms(row + column, k * kStepDepth);
        for (int64_t t = 0; t < kTerms; ++t) squares[t][i] = (Vector)terms.term[t];
      }
      for (int64_t t = 0; t < kTerms; ++t) {
        transpose_square(squares[t]);
#pragma GCC unroll 16
        for (int64_t i = 0; i < 16; ++i) {
          store_halves(out + k * kStepHalves + t * kTermHalves + tile * kTileHalves + i * 32, (Halves)squares[t][i]);
        }
      }
    }
  }
}

// At most 32 tokens, k in [begin, begin + 32 steps), as one panel of rhs. Of a single token only one column of
// each tile is written, so that a call with the same `out` and the same or fewer steps need not clear the others again.
template <typename Matrix>
LILY_INLINE void pack_few_tokens(const Matrix &in, int64_t begin, int64_t steps, bool clears, BFloat16 *out) {
  if (in.rows > 1) {
    Matrix part = in;
    part.data += begin;
    part.columns -= begin;
    pack_rhs_transposed<Columns::kInOrder>(part, 0, steps, out);
    return;
  }
  typedef uint32_t Pair __attribute__((may_alias));
  for (int64_t k = 0; k < steps; ++k) {
    BFloat16 *const tile = out + k * kStepHalves;
    const Terms terms = in.terms(0, begin + k * kStepDepth);
    for (int64_t t = 0; t < kTerms; ++t) {
      BFloat16 *const of_term = tile + t * kTermHalves;
      for (int64_t i = 0; clears && i < 16; ++i) store_halves(of_term + i * 32, Halves{});
      const BitVector pairs = (BitVector)terms.term[t];
      for (int64_t i = 0; i < 16; ++i) *reinterpret_cast<Pair *>(of_term + i * 32) = pairs[i];
    }
  }
}

// A matrix whose rows are k, as lhs. Blocks are `block_pitch` numbers apart.
template <typename Matrix>
LILY_INLINE void pack_lhs_transposed(const Matrix &in, int64_t steps, BFloat16 *out, int64_t block_pitch) {
  for (int64_t j = 0; j < in.columns; j += 32) {
    for (int64_t k = 0; k < steps; ++k) {
      Vector squares[2 * kTerms][16];  // of a tile each
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) {
        const Terms upper = in.terms(k * kStepDepth + 2 * i, j), lower = in.terms(k * kStepDepth + 2 * i + 1, j);
        for (int64_t t = 0; t < kTerms; ++t) {
          Halves first, second;
          pair_rows<Columns::kInOrder>(upper.term[t], lower.term[t], first, second);
          squares[2 * t][i] = (Vector)first;
          squares[2 * t + 1][i] = (Vector)second;
        }
      }
      BFloat16 *to = out + j / 32 * block_pitch + k * kStepHalves;
      for (int64_t tile = 0; tile < 2 * kTerms; ++tile) {
        transpose_square(squares[tile]);
#pragma GCC unroll 16
        for (int64_t i = 0; i < 16; ++i) store_halves(to + tile * kTileHalves + i * 32, (Halves)squares[tile][i]);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
