// The product of the AMX passes: a block of up to 32 x 32 sums, which are four tiles.
//
//   sums[i][j] (+)= sum_k lhs(i, k) * rhs(k, j)
//
// A sum is one chain over the steps of k. If it is continued from memory, the chain goes on: no cut of k, rows or
// columns into blocks changes a result. The products commute, so exchanging lhs and rhs gives the transposed bits,
// except for the payload of a NaN if both operands hold NaNs.
//
// With two terms, (l1 + l2) (r1 + r2) is l2 r1 + l1 r2 + l1 r1 in this order, a step of k for each. The omitted
// term l2 r2 is 2^-16 of a product at most. If the operands of the problem are exchanged, so are the first two (Order).
#pragma once

#include "cpu/amx/pack.h"
#include "cpu/random.h"
#include LILY_TILES

namespace lily::cpu {
namespace {

// Configures the tile registers of a task.
class TileScope {
 public:
  LILY_INLINE TileScope() { Tiles::configure(); }
  LILY_INLINE ~TileScope() { Tiles::release(); }
  TileScope(const TileScope &) = delete;
  TileScope &operator=(const TileScope &) = delete;
};

struct TileLhs {
  const BFloat16 *data;
  int64_t row_pitch;   // numbers from one row of a tile to the next
  int64_t tile_pitch;  // to the second tile
  int64_t step_pitch;  // to the next step
};

LILY_INLINE TileLhs lhs_in_place(const BFloat16 *rows, int64_t pitch) { return {rows, pitch, 16 * pitch, kStepDepth}; }
LILY_INLINE TileLhs packed_lhs(const BFloat16 *tiles) { return {tiles, 32, kTileHalves, kStepHalves}; }

template <int kRowTiles>
LILY_INLINE void load_lhs(const BFloat16 *lhs) {
  Tiles::load<4>(lhs, 64);
  if constexpr (kRowTiles == 2) Tiles::load<5>(lhs + kTileHalves, 64);
}
template <int kColumnTiles>
LILY_INLINE void load_rhs(const BFloat16 *rhs) {
  Tiles::load<6>(rhs, 64);
  if constexpr (kColumnTiles == 2) Tiles::load<7>(rhs + kTileHalves, 64);
}
template <int kRowTiles, int kColumnTiles>
LILY_INLINE void add_dots() {
  Tiles::dot<0, 4, 6>();
  if constexpr (kColumnTiles == 2) Tiles::dot<1, 4, 7>();
  if constexpr (kRowTiles == 2) Tiles::dot<2, 5, 6>();
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tiles::dot<3, 5, 7>();
}

// A step of two terms. From one product of terms to the next only the operands that differ are loaded.
template <int kRowTiles, int kColumnTiles>
LILY_INLINE void add_terms(const BFloat16 *lhs, const BFloat16 *rhs, Order order) {
  const BFloat16 *const lhs_low = lhs + kTermHalves, *const rhs_low = rhs + kTermHalves;
  if (order == Order::kOfProblem) {
    load_lhs<kRowTiles>(lhs_low);
    load_rhs<kColumnTiles>(rhs);
    add_dots<kRowTiles, kColumnTiles>();
    load_lhs<kRowTiles>(lhs);
    load_rhs<kColumnTiles>(rhs_low);
    add_dots<kRowTiles, kColumnTiles>();
    load_rhs<kColumnTiles>(rhs);
  } else {
    load_lhs<kRowTiles>(lhs);
    load_rhs<kColumnTiles>(rhs_low);
    add_dots<kRowTiles, kColumnTiles>();
    load_lhs<kRowTiles>(lhs_low);
    load_rhs<kColumnTiles>(rhs);
    add_dots<kRowTiles, kColumnTiles>();
    load_lhs<kRowTiles>(lhs);
  }
  add_dots<kRowTiles, kColumnTiles>();
}

template <int kRowTiles, int kColumnTiles>
__attribute__((noinline)) void multiply_block(int64_t steps, const TileLhs &lhs, const BFloat16 *rhs, Sums sums,
                                              bool accumulate, Order order) {
  const int64_t pitch_bytes = sums.pitch * 4, lhs_bytes = lhs.row_pitch * 2;
  float *const upper = sums.data, *const lower = sums.data + 16 * sums.pitch;
  if (accumulate) {
    Tiles::load<0>(upper, pitch_bytes);
    if constexpr (kColumnTiles == 2) Tiles::load<1>(upper + 16, pitch_bytes);
    if constexpr (kRowTiles == 2) Tiles::load<2>(lower, pitch_bytes);
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tiles::load<3>(lower + 16, pitch_bytes);
  } else {
    Tiles::zero<0>();
    if constexpr (kColumnTiles == 2) Tiles::zero<1>();
    if constexpr (kRowTiles == 2) Tiles::zero<2>();
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tiles::zero<3>();
  }
  const BFloat16 *l = lhs.data;
  const int64_t tile_pitch = lhs.tile_pitch, step_pitch = lhs.step_pitch;  // the loads clobber memory
  for (int64_t k = 0; k < steps; ++k, l += step_pitch, rhs += kStepHalves) {
    if constexpr (kTerms > 1) {
      add_terms<kRowTiles, kColumnTiles>(l, rhs, order);
      continue;
    }
    // rhs streams past lhs, which stays in the L1 cache.
    Tiles::load_streamed<6>(rhs, 64);
    Tiles::load<4>(l, lhs_bytes);
    Tiles::dot<0, 4, 6>();
    if constexpr (kColumnTiles == 2) {
      Tiles::load_streamed<7>(rhs + kTileHalves, 64);
      Tiles::dot<1, 4, 7>();
    }
    if constexpr (kRowTiles == 2) {
      Tiles::load<5>(l + tile_pitch, lhs_bytes);
      Tiles::dot<2, 5, 6>();
      if constexpr (kColumnTiles == 2) Tiles::dot<3, 5, 7>();
    }
  }
  Tiles::store<0>(upper, pitch_bytes);
  if constexpr (kColumnTiles == 2) Tiles::store<1>(upper + 16, pitch_bytes);
  if constexpr (kRowTiles == 2) Tiles::store<2>(lower, pitch_bytes);
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tiles::store<3>(lower + 16, pitch_bytes);
}

// Computes at least the rows and columns of `shape`, which may exceed the block, and whole tiles of it.
LILY_INLINE void multiply_tiles(const ProductShape &shape, const TileLhs &lhs, const BFloat16 *rhs, const Sums &sums,
                                bool accumulate, Order order) {
  if (shape.rows > 16) {
    if (shape.columns > 16) {
      multiply_block<2, 2>(shape.steps, lhs, rhs, sums, accumulate, order);
    } else {
      multiply_block<2, 1>(shape.steps, lhs, rhs, sums, accumulate, order);
    }
  } else if (shape.columns > 16) {
    multiply_block<1, 2>(shape.steps, lhs, rhs, sums, accumulate, order);
  } else {
    multiply_block<1, 1>(shape.steps, lhs, rhs, sums, accumulate, order);
  }
}

// Copies up to 32 rows of a matrix, k from `begin` on, to tiles. The second tile of at most 16 rows is not read.
template <typename Matrix>
LILY_INLINE TileLhs copy_lhs(const Matrix &in, int64_t row, int64_t begin, int64_t steps, BFloat16 *copy) {
  const int64_t rows = in.rows - row > 16 ? 32 : 16;
  for (int64_t k = 0; k < steps; ++k) {
    for (int64_t i = 0; i < rows; ++i) {
      const Terms terms = in.terms(row + i, begin + k * kStepDepth);
      for (int64_t t = 0; t < kTerms; ++t) {
        store_halves(copy + k * kStepHalves + t * kTermHalves + i * 32, terms.term[t]);
      }
    }
  }
  return packed_lhs(copy);
}

// The rows [row, row + 32) of a matrix, k in [begin, begin + 32 steps), as lhs: in place if the tiles end within the
// matrix, unless `copies`; otherwise copied to `copy`, which holds steps * kStepHalves numbers.
template <typename E>
LILY_INLINE TileLhs lhs_of(const ScaledMatrix<E> &in, int64_t row, int64_t begin, int64_t steps, bool copies,
                           BFloat16 *copy) {
  if constexpr (kTerms == 1 && __is_same(E, BFloat16)) {
    const int64_t rows = in.rows - row;
    const bool whole = (rows >= 32 || rows == 16) && in.columns - begin >= steps * kStepDepth && in.scale == 1.0f;
    if (whole && !copies) return lhs_in_place(in.data + row * in.pitch + begin, in.pitch);
  }
  return copy_lhs(in, row, begin, steps, copy);
}

// The roof of the products: blocks of 512 values of k, as the passes multiply them. The operands are random
// numbers, because the unit is faster on zeros than on any real operand.
constexpr double kRoofStepFlops = 2.0 * 4 * 16 * 16 * kStepDepth;  // of products of numbers, not of terms

float roof_products(int64_t steps) {
  constexpr int64_t kSteps = 512 / kStepDepth;
  alignas(64) BFloat16 lhs[kSteps * kStepHalves], rhs[kSteps * kStepHalves];
  alignas(64) float sums[32 * 32];
  fill_random(lhs, kSteps * kStepHalves);
  fill_random(rhs, kSteps * kStepHalves);
  const TileScope tiles;
  for (int64_t step = 0; step < steps; step += kSteps) {
    multiply_block<2, 2>(kSteps, packed_lhs(lhs), rhs, {sums, 32}, false, Order::kOfProblem);
  }
  return sums[0];
}

}  // namespace
}  // namespace lily::cpu
