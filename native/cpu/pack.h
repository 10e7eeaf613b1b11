// Conversion of operands into the layouts that the register tile reads, and of its packed sums back into matrices.
//
// Operands may have any element type. All conversions to the element type of the product happen here, on the way into
// scratch; no operand is converted as a whole.
//
//   rhs       packed in panels [panel][step of k][width], see tile.h: `pack` and `pack_transposed`
//   lhs       read in place if its element type and strides allow it, otherwise copied: `lhs_of_rows`, `lhs_of_columns`
//   sums      float32 panels [panel][row][width], written to a matrix by `write_panels`
#pragma once

#include "cpu/dropout.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// Columns of B that are combined at a time before they are transposed, above kSmallRank.
constexpr int64_t kTransposedRun = 512;

// Floats of kLanes such runs, or of a square of kPanel x kPanel numbers that is packed once and then transposed.
constexpr int64_t kTransposeScratchFloats = kLanes * kTransposedRun;
static_assert(kPanel * kPanel <= kTransposeScratchFloats);

// Packs scale * in^T: out[j][i] = scale * in[i][j] for i < rows, j < columns, with kDepth values of j per step. A row
// of out has `width` floats; the elements after the last row of `in` are zero up to whole vectors.
template <typename T>
void pack_transposed(int64_t rows, int64_t columns, const lily_matrix &in, float scale, float *out, int64_t width) {
  const int64_t steps = steps_of<T>(columns);
  with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *elements = static_cast<const decltype(element) *>(in.data);
    for (int64_t i = 0; i < rows; i += kLanes) {
      for (int64_t j = 0; j < steps; j += kLanes) {
        Vector square[kLanes];
        const auto *corner = elements + i * in.pitch + j * T::kDepth;
        const int64_t count = columns - j * T::kDepth;
#pragma GCC unroll 16
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          square[lane] = i + lane < rows ? T::load_steps(corner + lane * in.pitch, count, scale) : Vector{};
        }
        transpose_square(square);
        const int64_t lanes = minimum(kLanes, steps - j);
        for (int64_t lane = 0; lane < lanes; ++lane) store(out + (j + lane) * width + i, square[lane]);
      }
    }
  });
}

// Packs scale * in: out[i][j] = scale * in[i][j], with kDepth values of i per step. A row of out has `width` floats:
// `columns`, padded with zeros to whole vectors. Row i counts as zero where keeps[i] is 0; null keeps all rows.
template <typename T>
void pack(int64_t rows, int64_t columns, const lily_matrix &in, float scale, float *out, int64_t width,
          const uint8_t *keeps = nullptr) {
  with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *elements = static_cast<const decltype(element) *>(in.data);
    for (int64_t i = 0; i < rows; i += T::kDepth) {
      const auto *row = elements + i * in.pitch;
      const int64_t count_rows = T::kDepth == 1 ? 1 : minimum(T::kDepth, rows - i);
      float *row_out = out + i / T::kDepth * width;
      bool kept[T::kDepth];
      for (int64_t k = 0; k < T::kDepth; ++k) kept[k] = k < count_rows && (keeps == nullptr || keeps[i + k] != 0);
      const int64_t done =
          keeps == nullptr ? T::interleave_rows(row, in.pitch, count_rows, columns, scale, row_out) : 0;
      for_vectors(columns - done, [=, &kept](int64_t offset, int64_t count) __attribute__((always_inline)) {
        const int64_t j = done + offset;
        Vector values[T::kDepth];
        for (int64_t k = 0; k < T::kDepth; ++k) {
          values[k] = kept[k] ? scale * load_up_to(row + k * in.pitch + j, count) : Vector{};
        }
        store(row_out + j, T::interleave(values));
      });
    }
  });
}

// The same for the elements that a mask keeps, and zeros for the others.
template <typename T>
void pack_kept(int64_t rows, int64_t columns, const lily_matrix &in, const Mask &mask, float *out, int64_t width) {
  with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *elements = static_cast<const decltype(element) *>(in.data);
    for (int64_t i = 0; i < rows; i += T::kDepth) {
      const auto *row = elements + i * in.pitch;
      const int64_t count_rows = T::kDepth == 1 ? 1 : minimum(T::kDepth, rows - i);
      float *row_out = out + i / T::kDepth * width;
      const Mask kept = mask.from_row(i);
      const int64_t done = T::interleave_kept_rows(row, in.pitch, count_rows, columns, kept.bits, kept.pitch, row_out);
      for_vectors(columns - done, [=](int64_t offset, int64_t count) __attribute__((always_inline)) {
        const int64_t j = done + offset;
        Vector values[T::kDepth];
        for (int64_t k = 0; k < T::kDepth; ++k) {
          values[k] = k < count_rows ? keep(kept.row(k), j, load_up_to(row + k * in.pitch + j, count)) : Vector{};
        }
        store(row_out + j, T::interleave(values));
      });
    }
  });
}

// Whether the register tile can read the rows of a matrix in place.
template <typename T>
LILY_INLINE bool is_lhs(const lily_matrix &matrix, int64_t depth) {
  return matrix.dtype == T::kDtype && depth % T::kDepth == 0;
}

// Copies a row, whose elements are converted. Whole vectors are written.
template <typename From, typename To>
LILY_INLINE void copy_row(const From *row, int64_t columns, To *copy) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    const TwoVectors two = load_two(row + j);
    store_two(copy + j, two.first, two.second);
  }
  for (; j < columns; j += kLanes) store(copy + j, load_up_to(row + j, columns - j));
}

// The same for the elements that a row of a mask keeps, and zeros for the others.
template <typename From, typename To>
LILY_INLINE void copy_kept_row(const From *row, int64_t columns, const uint8_t *kept, To *copy) {
  int64_t j = 0;
#if defined(__AVX512BW__)
  if constexpr (__is_same(From, BFloat16) && __is_same(To, BFloat16)) {
    for (; j + 2 * kLanes <= columns; j += 2 * kLanes) store_bytes(copy + j, load_kept_bytes(row + j, kept + j / 8));
  }
#endif
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    const TwoVectors two = load_two(row + j);
    store_two(copy + j, keep(kept, j, two.first), keep(kept, j + kLanes, two.second));
  }
  for (; j < columns; j += kLanes) store(copy + j, keep(kept, j, load_up_to(row + j, columns - j)));
}

// The elements of rows that a mask keeps, as a left operand: copied to `scratch`, which holds
// rows * round_up(depth, kLanes) floats.
template <typename T>
LeftOperand<T> lhs_of_kept_rows(const lily_matrix &matrix, int64_t rows, int64_t depth, const Mask &mask,
                                float *scratch) {
  const int64_t pitch = round_up(depth, kLanes);
  auto *const copy = reinterpret_cast<typename T::Element *>(scratch);
  with_element(matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto *row = static_cast<const decltype(element) *>(matrix.data) + i * matrix.pitch;
      copy_kept_row(row, depth, mask.row(i), copy + i * pitch);
    }
  });
  return {copy, pitch, T::kDepth};
}

// The rows of a matrix as a left operand. If the register tile cannot read them in place, also because they are listed
// and do not follow each other, they are copied to `scratch`, which holds rows * round_up(depth, kLanes) floats.
template <typename T>
LeftOperand<T> lhs_of_rows(const TokenRows &listed, int64_t rows, int64_t depth, float *scratch) {
  const TokenRows in = in_order(listed, rows);
  const lily_matrix &matrix = in.matrix;
  if (is_lhs<T>(matrix, depth) && in.listed == nullptr) {
    return {static_cast<const typename T::Element *>(matrix.data), matrix.pitch, T::kDepth};
  }
  const int64_t pitch = round_up(depth, kLanes);
  auto *const copy = reinterpret_cast<typename T::Element *>(scratch);
  with_element(matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto *row = static_cast<const decltype(element) *>(matrix.data) + in.of(i) * matrix.pitch;
      copy_row(row, depth, copy + i * pitch);
    }
  });
  return {copy, pitch, T::kDepth};
}
template <typename T>
LILY_INLINE LeftOperand<T> lhs_of_rows(const lily_matrix &matrix, int64_t rows, int64_t depth, float *scratch) {
  return lhs_of_rows<T>(TokenRows{matrix, nullptr}, rows, depth, scratch);
}

// The rows to prefetch while a product reads the first `rows` rows of a matrix as lhs_of_rows: the rows of the next
// tile, or, if rows are copied, the rows that are copied next.
template <typename T>
LILY_INLINE NextRows next_rows(const lily_matrix &matrix, int64_t rows, int64_t depth, bool copies = false) {
  const lily_matrix next = submatrix(matrix, is_lhs<T>(matrix, depth) && !copies ? kTileRows : rows, 0);
  const int64_t bytes = element_bytes(matrix);
  return {static_cast<const char *>(next.data), matrix.pitch * bytes, T::kDepth * bytes};
}

// The tile of the product of an activation and `rank` columns (h, q). Up to kSmallRank it waits for memory: the
// hardware prefetcher does not follow six rows at a time. Rows that are copied also wait for shared caches, because
// nothing else is computed meanwhile.
LILY_INLINE TileKind tile_kind(const lily_problem &problem, int64_t rank, const lily_matrix &in, int64_t columns) {
  const bool is_far = in.dtype != Operand::kDtype || bytes_of(problem.tokens, columns, in) > kPrefetchedOperand;
  return {rank <= kLanes, rank <= kSmallRank && is_far};
}

// The columns of a matrix as a left operand, where k counts its rows. If the register tile cannot read them in place,
// they are packed to `scratch`, which holds round_up(columns, kLanes) floats per step of k.
template <typename T>
LeftOperand<T> lhs_of_columns(const lily_matrix &matrix, int64_t rows, int64_t columns, float *scratch) {
  if (matrix.dtype == T::kDtype && T::kDepth == 1) {
    return {static_cast<const typename T::Element *>(matrix.data), 1, matrix.pitch};
  }
  const int64_t width = round_up(columns, kLanes);
  pack<T>(rows, columns, matrix, 1.0f, scratch, width);
  return {reinterpret_cast<const typename T::Element *>(scratch), T::kDepth, T::kDepth * width};
}

LILY_INLINE void clear(float *values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0.0f;
}

// out[i][j] (+)= scale * sums[i][j], where sums are packed in panels.
LILY_INLINE void write_panels(int64_t rows, int64_t columns, const float *sums, float scale, const lily_matrix &out,
                              bool accumulate) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    write_rows(rows, panel, sums + p * kPanel * rows, round_up(panel, kLanes), scale, submatrix(out, 0, p * kPanel),
               accumulate);
  }
}

}  // namespace
}  // namespace lily::cpu
