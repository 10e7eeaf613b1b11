// The inner loops of spectrum.cc, in float64: a tile of a matrix product, one row of a Householder step, and Sturm
// counts.
#pragma once

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

typedef double DoubleVector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef int64_t LongVector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef double UnalignedDoubleVector __attribute__((vector_size(LILY_VECTOR_BYTES), aligned(8), may_alias));

constexpr int64_t kDoubleLanes = LILY_VECTOR_BYTES / 8;

// A register tile of 8 x 3 vectors uses 28 of 32 registers, one of 4 x 3 all of 16: 24 or 12 sums, 3 values of b, 1 of
// a.
constexpr int64_t kDoubleRows = LILY_VECTOR_REGISTERS >= 32 ? 8 : 4;
constexpr int64_t kDoubleVectors = 3;
constexpr int64_t kDoubleColumns = kDoubleVectors * kDoubleLanes;

LILY_INLINE DoubleVector load(const double *p) { return *reinterpret_cast<const UnalignedDoubleVector *>(p); }
LILY_INLINE void store(double *p, DoubleVector v) { *reinterpret_cast<UnalignedDoubleVector *>(p) = v; }
LILY_INLINE DoubleVector broadcast(double value) { return value - DoubleVector{}; }

// Adds a b to c [kDoubleRows, kDoubleColumns], with rows `pitch` apart. a is packed [depth][kDoubleRows], b is packed
// [depth][kDoubleColumns].
void multiply_double_tile(const double *a, const double *b, int64_t depth, double *c, int64_t pitch) {
  DoubleVector sums[kDoubleRows][kDoubleVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    DoubleVector row[kDoubleVectors];
#pragma GCC unroll 3
    for (int64_t j = 0; j < kDoubleVectors; ++j) row[j] = load(b + k * kDoubleColumns + j * kDoubleLanes);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kDoubleRows; ++i) {
      const DoubleVector value = broadcast(a[k * kDoubleRows + i]);
#pragma GCC unroll 3
      for (int64_t j = 0; j < kDoubleVectors; ++j) sums[i][j] += value * row[j];
    }
  }
  for (int64_t i = 0; i < kDoubleRows; ++i) {
    for (int64_t j = 0; j < kDoubleVectors; ++j) {
      double *const p = c + i * pitch + j * kDoubleLanes;
      store(p, load(p) + sums[i][j]);
    }
  }
}

// Row i of S, j <= i: applies S -= v p^T + p v^T, then adds its share of S u to `product`: S_ij u_j to element i, and
// S_ij u_i to element j < i.
void reflect_row(const ReflectRow &step, double *row, int64_t i) {
  const double vi = step.v[i], pi = step.p[i], ui = step.u[i];
  const DoubleVector vi_vector = broadcast(vi), pi_vector = broadcast(pi), ui_vector = broadcast(ui);
  DoubleVector sums = {};
  int64_t j = 0;
  for (; j + kDoubleLanes <= i; j += kDoubleLanes) {
    const DoubleVector value = load(row + j) - vi_vector * load(step.p + j) - pi_vector * load(step.v + j);
    store(row + j, value);
    sums += value * load(step.u + j);
    store(step.product + j, load(step.product + j) + value * ui_vector);
  }
  double sum = 0.0;
  for (int64_t lane = 0; lane < kDoubleLanes; ++lane) sum += sums[lane];
  for (; j < i; ++j) {
    row[j] -= vi * step.p[j] + pi * step.v[j];
    sum += row[j] * step.u[j];
    step.product[j] += row[j] * ui;
  }
  row[i] -= 2.0 * vi * pi;
  step.product[i] += sum + row[i] * ui;
}

// The number of eigenvalues below each of kShifts values x: the negative pivots of T - x I, where T has the given
// diagonal and the given squares beside it (Golub and Van Loan, Matrix Computations, 8.4.1). `tiny` replaces a pivot of
// zero.
constexpr int64_t kShifts = 2 * kDoubleLanes;
void count_below(const Tridiagonal &matrix, const double *x, int64_t *counts) {
  const DoubleVector tiny = broadcast(matrix.tiny);
  const DoubleVector shifts[2] = {load(x), load(x + kDoubleLanes)};
  DoubleVector pivots[2] = {broadcast(1.0), broadcast(1.0)};
  LongVector negative[2] = {};
  for (int64_t i = 0; i < matrix.n; ++i) {
    const DoubleVector diagonal = broadcast(matrix.diagonal[i]), square = broadcast(matrix.squares[i]);
#pragma GCC unroll 2
    for (int64_t j = 0; j < 2; ++j) {
      DoubleVector pivot = diagonal - shifts[j] - square / pivots[j];
      const LongVector is_tiny = (pivot < tiny) & (pivot > -tiny);
      pivot = is_tiny ? -tiny : pivot;
      negative[j] -= pivot < DoubleVector{};
      pivots[j] = pivot;
    }
  }
  for (int64_t j = 0; j < 2; ++j) {
    for (int64_t lane = 0; lane < kDoubleLanes; ++lane) counts[j * kDoubleLanes + lane] = negative[j][lane];
  }
}

}  // namespace
}  // namespace lily::cpu
