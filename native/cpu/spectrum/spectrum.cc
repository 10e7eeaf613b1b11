#include "cpu/spectrum/spectrum.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <memory>

#include "core/workspace.h"
#include "cpu/thread_pool.h"
#include "system/memory.h"

namespace lily::cpu {
namespace {

constexpr double kEpsilon = 0x1p-52;

// Rows and columns of C per task, and values of k that a task packs at a time. The two packed blocks take 512 KiB and
// fit into L2.
constexpr int64_t kBlock = 144;
constexpr int64_t kDepth = 224;

using Scratch = std::unique_ptr<double, void (*)(void *)>;

Scratch allocate(int64_t count) {
  const size_t bytes = static_cast<size_t>(Workspace::padded(static_cast<size_t>(count) * sizeof(double)));
  return Scratch(static_cast<double *>(system::allocate_aligned(Workspace::kAlignment, bytes)), system::free_aligned);
}

// An operand of a product; a transposed matrix has its strides exchanged.
struct View {
  const double *data;
  int64_t row, column;  // strides
};

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Packs `lines` rows of a (or columns of b) in panels of `width`: [panel][k][width], zeros behind the last line.
void pack(const double *data, int64_t line_stride, int64_t k_stride, int64_t lines, int64_t depth, int64_t width,
          double *packed) {
  for (int64_t panel = 0; panel < lines; panel += width) {
    const int64_t count = std::min(width, lines - panel);
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < count; ++i) packed[i] = data[(panel + i) * line_stride + k * k_stride];
      for (int64_t i = count; i < width; ++i) packed[i] = 0.0;
      packed += width;
    }
  }
}

// C [n, n] += sign * A B, A [n, depth] and B [depth, n].
struct Product {
  double *c;
  int64_t pitch;  // of c
  int64_t n, depth;
  View a, b;
  double sign;
  bool lower_only;  // the lower half of C only
};

// The rows and columns of C that a task computes, and its scratch.
struct Block {
  int64_t row, rows, column, columns;
  int64_t pitch;  // of sums: the columns of a whole block
  double *packed_a, *packed_b, *sums;
};

// The sums of one block, in the order of k, from `first_k` on.
void multiply_block(const Kernels &kernels, const Product &product, const Block &block, int64_t first_k) {
  const View &a = product.a, &b = product.b;
  for (int64_t k = first_k; k < product.depth; k += kDepth) {
    const int64_t depth = std::min(kDepth, product.depth - k);
    pack(a.data + block.row * a.row + k * a.column, a.row, a.column, block.rows, depth, kernels.double_rows,
         block.packed_a);
    pack(b.data + block.column * b.column + k * b.row, b.column, b.row, block.columns, depth, kernels.double_columns,
         block.packed_b);
    for (int64_t i = 0; i < block.rows; i += kernels.double_rows) {
      for (int64_t j = 0; j < block.columns; j += kernels.double_columns) {
        kernels.multiply_double_tile(block.packed_a + i * depth, block.packed_b + j * depth, depth,
                                     block.sums + i * block.pitch + j, block.pitch);
      }
    }
  }
}

// Each task owns a block of C. A and B are zero for k before first_k(row, column) of a block that begins there.
template <typename FirstK>
bool multiply(const Kernels &kernels, const Product &product, FirstK first_k) {
  const int64_t n = product.n, pitch = product.pitch;
  const int64_t rows = round_up(kBlock, kernels.double_rows), columns = round_up(kBlock, kernels.double_columns);
  const int64_t row_blocks = (n + rows - 1) / rows, column_blocks = (n + columns - 1) / columns;
  const int64_t worker_doubles = (rows + columns) * kDepth + rows * columns;
  const Scratch scratch = allocate(thread_count() * worker_doubles);
  if (scratch == nullptr) return false;
  parallel_for(row_blocks * column_blocks, [&](int64_t task, int64_t worker) {
    const int64_t row = task / column_blocks * rows, column = task % column_blocks * columns;
    double *const packed_a = scratch.get() + worker * worker_doubles, *const packed_b = packed_a + rows * kDepth;
    const Block block = {.row = row,
                         .rows = std::min(rows, n - row),
                         .column = column,
                         .columns = std::min(columns, n - column),
                         .pitch = columns,
                         .packed_a = packed_a,
                         .packed_b = packed_b,
                         .sums = packed_b + columns * kDepth};
    if (product.lower_only && column > row + block.rows - 1) return;
    std::fill(block.sums, block.sums + rows * columns, 0.0);
    multiply_block(kernels, product, block, first_k(row, column));
    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t end = product.lower_only ? std::min(block.columns, row + i - column + 1) : block.columns;
      for (int64_t j = 0; j < end; ++j) {
        product.c[(row + i) * pitch + column + j] += product.sign * block.sums[i * columns + j];
      }
    }
  });
  return true;
}

int64_t from_zero(int64_t, int64_t) { return 0; }

bool gram(const Kernels &kernels, const double *x, int64_t r, int64_t columns, double *product) {
  std::fill(product, product + r * r, 0.0);
  return multiply(kernels,
                  {.c = product,
                   .pitch = r,
                   .n = r,
                   .depth = columns,
                   .a = {x, columns, 1},
                   .b = {x, 1, columns},
                   .sign = 1.0,
                   .lower_only = true},
                  from_zero);
}

void mirror(double *lower, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) lower[j * n + i] = lower[i * n + j];
  }
}

// Elements `begin` to `end` - 1 of row i of the Cholesky factor, whose elements before `begin` have been subtracted. A
// pivot of at most `least` is zero.
void factor_row(double *matrix, int64_t n, int64_t i, int64_t begin, int64_t end, double least) {
  double *const row = matrix + i * n;
  for (int64_t j = begin; j < end; ++j) {
    const double *const other = matrix + j * n;
    double rest = row[j];
    for (int64_t k = begin; k < j; ++k) rest -= row[k] * other[k];
    if (j == i) {
      row[i] = rest <= least ? 0.0 : sqrt(rest);  // NaN stays NaN
    } else {
      row[j] = other[j] == 0.0 ? 0.0 : rest / other[j];
    }
  }
}

// Columns of the Cholesky factor that are computed before the rest is updated by a matrix product.
constexpr int64_t kFactorColumns = 64;

bool cholesky(const Kernels &kernels, double *matrix, int64_t n) {
  // The rounding error of a pivot is relative to its own row, however large others are. An infinite row has none: NaN.
  const Scratch least = allocate(n);
  if (least == nullptr) return false;
  for (int64_t i = 0; i < n; ++i) {
    double &diagonal = matrix[i * n + i];
    if (isinf(diagonal)) diagonal = NAN;
    least.get()[i] = diagonal * static_cast<double>(n) * kEpsilon;
  }
  for (int64_t begin = 0; begin < n; begin += kFactorColumns) {
    const int64_t end = std::min(begin + kFactorColumns, n), rest = n - end;
    for (int64_t i = begin; i < end; ++i) factor_row(matrix, n, i, begin, i + 1, least.get()[i]);
    if (rest == 0) break;
    parallel_for((rest + 31) / 32, [&](int64_t task, int64_t) {
      for (int64_t i = end + 32 * task; i < std::min(end + 32 * (task + 1), n); ++i) {
        factor_row(matrix, n, i, begin, end, least.get()[i]);
      }
    });
    const double *const panel = matrix + end * n + begin;
    const Product update = {.c = matrix + end * n + end,
                            .pitch = n,
                            .n = rest,
                            .depth = end - begin,
                            .a = {panel, n, 1},
                            .b = {panel, 1, n},
                            .sign = -1.0,
                            .lower_only = true};
    if (!multiply(kernels, update, from_zero)) return false;
  }
  for (int64_t i = 0; i < n; ++i) std::fill(matrix + i * n + i + 1, matrix + (i + 1) * n, 0.0);
  return true;
}

// The reflection I - u u^T / half.
struct Reflection {
  double half;    // |u|^2 / 2
  double beside;  // what the element before the diagonal becomes
};

// Finds u of the reflection that makes a row of `count` elements zero but for the last one.
Reflection find_reflection(const double *row, int64_t count, double *u) {
  const double last = row[count - 1];
  double rest = 0.0;
  for (int64_t j = 0; j < count - 1; ++j) rest += row[j] * row[j];
  if (rest == 0.0) {
    std::fill(u, u + count, 0.0);
    return {.half = 1.0, .beside = last};
  }
  const double norm2 = rest + last * last;
  const double beside = last > 0.0 ? -sqrt(norm2) : sqrt(norm2);  // no cancellation in u
  std::copy(row, row + count, u);
  u[count - 1] -= beside;
  return {.half = norm2 - last * beside, .beside = beside};
}

// Tasks that share the rows of one Householder step. Each has a partial sum of S u, so the number is fixed.
constexpr int64_t kReflectTasks = 8;

// Computes p, with which the reflection of S is S -= u p^T + p u^T: S u / half without half of its projection on u. The
// partial sums of S u are n elements apart.
void find_p(const double *products, int64_t n, const double *u, double half, int64_t count, double *p) {
  double projection = 0.0;
  for (int64_t j = 0; j < count; ++j) {
    double sum = 0.0;
    for (int64_t task = 0; task < kReflectTasks; ++task) sum += products[task * n + j];
    p[j] = sum / half;
    projection += p[j] * u[j];
  }
  projection /= 2.0 * half;
  for (int64_t j = 0; j < count; ++j) p[j] -= projection * u[j];
}

// Householder's reflections, from the last row up: each makes a row zero but for the element before the diagonal (Golub
// and Van Loan, 8.3.1). The update of one step and the product that the next one needs read the matrix together.
bool tridiagonalize(const Kernels &kernels, double *lower, int64_t n, double *diagonal, double *beside) {
  const Scratch scratch = allocate((3 + kReflectTasks) * n);
  if (scratch == nullptr) return false;
  double *v = scratch.get(), *u = v + n;
  double *const p = u + n, *const products = p + n;
  std::fill(scratch.get(), products, 0.0);
  for (int64_t i = n - 1; i >= 0; --i) {
    double *const row = lower + i * n;
    // The reflection of the row before, applied to this row.
    for (int64_t j = 0; j <= i; ++j) row[j] -= v[i] * p[j] + p[i] * v[j];
    diagonal[i] = row[i];
    beside[i] = 0.0;
    if (i == 0) break;

    const Reflection reflection = find_reflection(row, i, u);
    beside[i] = reflection.beside;

    // Rows of equal area for each task.
    const auto row_at = [&](int64_t task) {
      return static_cast<int64_t>(static_cast<double>(i) * sqrt(static_cast<double>(task) / kReflectTasks));
    };
    parallel_for(kReflectTasks, [&](int64_t task, int64_t) {
      double *const product = products + task * n;
      std::fill(product, product + i, 0.0);
      const ReflectRow step = {v, p, u, product};
      const int64_t end = task == kReflectTasks - 1 ? i : row_at(task + 1);
      for (int64_t k = row_at(task); k < end; ++k) kernels.reflect_row(step, lower + k * n, k);
    });
    find_p(products, n, u, reflection.half, i, p);
    std::swap(u, v);
  }
  return true;
}

// Each eigenvalue is enclosed by the number of eigenvalues below a value. Nothing can fail to converge.
void bisect(const Kernels &kernels, const Tridiagonal &matrix, double bound, double *values) {
  const int64_t n = matrix.n, width = kernels.shifts;
  parallel_for((n + width - 1) / width, [&](int64_t task, int64_t) {
    constexpr int64_t kMostShifts = 16;
    double low[kMostShifts], high[kMostShifts], middle[kMostShifts] = {};
    int64_t counts[kMostShifts];
    std::fill(low, low + width, -bound);
    std::fill(high, high + width, bound);
    const int64_t first = task * width, count = std::min(width, n - first);
    for (bool is_open = true; is_open;) {
      is_open = false;
      for (int64_t i = 0; i < width; ++i) middle[i] = low[i] + (high[i] - low[i]) / 2.0;
      kernels.count_below(matrix, middle, counts);
      for (int64_t i = 0; i < count; ++i) {
        // The k-th largest has n - 1 - k below it.
        (counts[i] > n - 1 - (first + i) ? high : low)[i] = middle[i];
        const double next = low[i] + (high[i] - low[i]) / 2.0;
        is_open = is_open || (high[i] - low[i] > bound * kEpsilon && next != low[i] && next != high[i]);
      }
    }
    for (int64_t i = 0; i < count; ++i) values[first + i] = low[i] + (high[i] - low[i]) / 2.0;
  });
}

// All eigenvalues of the matrix [n, n], the largest first. Reads only the lower half of the matrix, and overwrites it.
bool eigenvalues(const Kernels &kernels, double *lower, int64_t n, double *values) {
  const Scratch scratch = allocate(2 * n);
  if (scratch == nullptr) return false;
  double *const diagonal = scratch.get(), *const squares = diagonal + n;
  if (!tridiagonalize(kernels, lower, n, diagonal, squares)) return false;
  double bound = 0.0;
  bool is_finite = true;
  for (int64_t i = 0; i < n; ++i) {
    is_finite = is_finite && isfinite(diagonal[i]) && isfinite(squares[i]);
    const double next = i + 1 < n ? fabs(squares[i + 1]) : 0.0;
    bound = std::max(bound, fabs(diagonal[i]) + fabs(squares[i]) + next);
  }
  if (!is_finite) {
    std::fill(values, values + n, NAN);
    return true;
  }
  for (int64_t i = 0; i < n; ++i) squares[i] *= squares[i];
  bisect(kernels, {diagonal, squares, n, bound * kEpsilon * kEpsilon}, bound, values);
  return true;
}

}  // namespace

bool gram_factor(const Kernels &kernels, const double *x, int64_t r, int64_t columns, double *l) {
  return gram(kernels, x, r, columns, l) && cholesky(kernels, l, r);
}

bool congruence_eigenvalues(const Kernels &kernels, const double *l, const double *x, int64_t r, int64_t columns,
                            double *values) {
  const Scratch scratch = allocate(3 * r * r);
  if (scratch == nullptr) return false;
  double *const s = scratch.get(), *const sl = s + r * r, *const product = sl + r * r;
  if (!gram(kernels, x, r, columns, s)) return false;
  mirror(s, r);
  std::fill(sl, sl + 2 * r * r, 0.0);
  // L^T is zero before the diagonal of a row, as L is before the diagonal of a column: the sums begin there.
  const Product s_l = {
      .c = sl, .pitch = r, .n = r, .depth = r, .a = {s, r, 1}, .b = {l, r, 1}, .sign = 1.0, .lower_only = false};
  const Product l_s_l = {
      .c = product, .pitch = r, .n = r, .depth = r, .a = {l, 1, r}, .b = {sl, r, 1}, .sign = 1.0, .lower_only = true};
  return multiply(kernels, s_l, [](int64_t, int64_t column) { return column; }) &&
         multiply(kernels, l_s_l, [](int64_t row, int64_t) { return row; }) && eigenvalues(kernels, product, r, values);
}

}  // namespace lily::cpu
