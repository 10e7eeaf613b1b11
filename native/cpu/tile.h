// The register tile, which BLIS calls a micro-kernel. The products of the vector kernels run through it, except for
// products of few tokens, which read A, B or a weight in place because packing would take longer (forward_direct.h,
// backward_direct.h, linear_direct.h), and products of float64 (spectrum/kernels.h).
//
//   out[i][j] (+)= sum_k lhs(i, k) * rhs[k][j]      i < rows <= 6, j < vectors * lanes, vectors <= kPanelVectors
//
// `lhs` has one stride for rows and one for steps of k, so that h and h^T need no separate code. `rhs` and `out` are
// row-major and accessed in whole vectors; `out` has any element type. Each element of `out` is one chain of fused
// multiply-adds in ascending k, or two in a product of one vector of columns, so the result does not depend on the cut
// of rows and columns into tiles.
//
// A step of k is one float32 value (Floats), or two neighbouring bfloat16 values in the 4 bytes of a float (Pairs).
// Packing for Pairs interleaves each two rows, as oneDNN's VNNI layouts do.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace lily::cpu {
namespace {

// The operand format of a product: `kDepth` values of k per step.
struct Floats {
  using Element = float;  // of lhs
  static constexpr int32_t kDtype = LILY_FLOAT32;
  static constexpr int64_t kDepth = 1;

  static LILY_INLINE float step_of(const float *lhs) { return *lhs; }
  static LILY_INLINE Vector multiply_add(float lhs, Vector rhs, Vector sum) {
#if defined(__wasm_relaxed_simd__)
    // Fused where the processor has such an instruction. Clang does not contract to it by itself.
    return (Vector)__builtin_wasm_relaxed_madd_f32x4(broadcast(lhs), rhs, sum);
#else
    return sum + lhs * rhs;
#endif
  }

  // Makes one step of rhs from kDepth rows.
  static LILY_INLINE Vector interleave(const Vector (&rows)[kDepth]) { return rows[0]; }

  // Interleaves `count` rows in memory for as many columns as a fast path covers, and returns that number of columns.
  template <typename E>
  static LILY_INLINE int64_t interleave_rows(const E *, int64_t, int64_t, int64_t, float, float *) {
    return 0;
  }
  // The same with zeros in the place of the numbers whose bit is 0, see dropout.h.
  template <typename E>
  static LILY_INLINE int64_t interleave_kept_rows(const E *, int64_t, int64_t, int64_t, const uint8_t *, int64_t,
                                                  float *) {
    return 0;
  }

  // Loads kLanes steps of one row that has `count` elements left; missing elements are zero.
  template <typename E>
  static LILY_INLINE Vector load_steps(const E *row, int64_t count, float scale) {
    return scale * load_up_to(row, count);
  }
};

#if defined(__AVX512BF16__)
// VDPBF16PS multiplies and adds in float32. It flushes subnormal inputs and sums to zero.
struct Pairs {
  using Element = BFloat16;
  static constexpr int32_t kDtype = LILY_BFLOAT16;
  static constexpr int64_t kDepth = 2;

  // The address needs the alignment of one element only.
  static LILY_INLINE Vector step_of(const BFloat16 *lhs) {
    typedef uint32_t Step __attribute__((aligned(2), may_alias));
    return (Vector)(*reinterpret_cast<const Step *>(lhs) - BitVector{});
  }
  static LILY_INLINE Vector multiply_add(Vector lhs, Vector rhs, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)lhs, (__m512bh)rhs);
  }

  // The indices 0, odd, 1, odd + 1, ...
  static LILY_INLINE __m512i interleave_indices(int odd) {
    const __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_or_si512(step, _mm512_slli_epi32(_mm512_add_epi32(step, _mm512_set1_epi32(odd)), 16));
  }

  static LILY_INLINE Vector interleave(const Vector (&rows)[kDepth]) {
    // The elements of rows[0], then of rows[1].
    const __m512i concatenated = (__m512i)_mm512_cvtne2ps_pbh((__m512)rows[1], (__m512)rows[0]);
    return (Vector)_mm512_permutexvar_epi16(interleave_indices(16), concatenated);
  }

  template <typename E>
  static LILY_INLINE int64_t interleave_rows(const E *, int64_t, int64_t, int64_t, float, float *) {
    return 0;
  }
  static LILY_INLINE int64_t interleave_rows(const BFloat16 *rows, int64_t pitch, int64_t count, int64_t columns,
                                             float scale, float *out) {
    if (count < kDepth || scale != 1.0f) return 0;
    int64_t j = 0;
    for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
      interleave_two(load_bytes(rows + j), load_bytes(rows + pitch + j), out + j);
    }
    return j;
  }
  static LILY_INLINE void interleave_two(Vector even, Vector odd, float *out) {
    const __m512i first = interleave_indices(32), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    store(out, (Vector)_mm512_permutex2var_epi16((__m512i)even, first, (__m512i)odd));
    store(out + kLanes, (Vector)_mm512_permutex2var_epi16((__m512i)even, second, (__m512i)odd));
  }

  template <typename E>
  static LILY_INLINE int64_t interleave_kept_rows(const E *, int64_t, int64_t, int64_t, const uint8_t *, int64_t,
                                                  float *) {
    return 0;
  }
  static LILY_INLINE int64_t interleave_kept_rows(const BFloat16 *rows, int64_t pitch, int64_t count, int64_t columns,
                                                  const uint8_t *kept, int64_t kept_pitch, float *out) {
    if (count < kDepth) return 0;
    int64_t j = 0;
    for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
      interleave_two(load_kept_bytes(rows + j, kept + j / 8),
                     load_kept_bytes(rows + pitch + j, kept + kept_pitch + j / 8), out + j);
    }
    return j;
  }

  template <typename E>
  static LILY_INLINE Vector load_steps(const E *row, int64_t count, float scale) {
    const Vector first = scale * load_up_to(row, count);
    const Vector second = count > kLanes ? scale * load_up_to(row + kLanes, count - kLanes) : Vector{};
    return (Vector)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  }
  static LILY_INLINE Vector load_steps(const BFloat16 *row, int64_t count, float scale) {
    if (scale == 1.0f && count >= 2 * kLanes) return load_bytes(row);
    return load_steps<BFloat16>(row, count, scale);
  }
};
#endif

// The formats of the large products on AMX, which do not use the register tile; see amx/product.h. An operand of the
// unit is the sum of kTerms bfloat16 numbers.
struct TilePairs {
  using Element = BFloat16;
  static constexpr int32_t kDtype = LILY_BFLOAT16;
  static constexpr int64_t kDepth = 2;
  static constexpr int64_t kTerms = 1;
};
struct TileTerms {
  using Element = float;
  static constexpr int32_t kDtype = LILY_FLOAT32;
  static constexpr int64_t kDepth = 1;
  static constexpr int64_t kTerms = 2;
};

// The format of the large products in this instruction set. The small products always use Floats.
using Operand = LILY_OPERAND;

// The number of steps for `depth` values of k. Packing fills up the last step with zeros.
template <typename T>
LILY_INLINE int64_t steps_of(int64_t depth) {
  return (depth + T::kDepth - 1) / T::kDepth;
}

// Six rows: if the pitch is a power of two, all rows of an activation map to the same set of an 8-way L1 cache.
constexpr int64_t kTileRows = 6;

// 6 x 4 vectors of sums fill the 32 registers of AVX-512 and NEON; 6 x 2 fill the 16 registers of AVX2 and SSE.
constexpr int64_t kPanelVectors = LILY_VECTOR_REGISTERS == 32 ? 4 : 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

// The left operand of a product: a pointer and two strides, in elements.
template <typename T>
struct LeftOperand {
  const typename T::Element *data;
  int64_t row_stride;
  int64_t step_stride;  // from one step of k to the next
};

// The right operand: one row of whole vectors for each step of k.
struct RightOperand {
  const float *data;
  int64_t pitch;
};

// Rows of sums.
struct Sums {
  float *data;
  int64_t pitch;
};

// The shape of a product: the rows and columns of its sums, and its steps of k.
struct ProductShape {
  int64_t rows, columns, steps;
};

// Rows that a later tile reads, for prefetches: pointer and strides as in LeftOperand, but in bytes.
struct NextRows {
  const char *data;
  int64_t row_stride;
  int64_t step_stride;
};

// Steps of k whose elements of one row fill a cache line of 64 bytes, or half of one where rows of 16 bits are copied
// to float32: then every line is prefetched twice. Even, for the narrow tile.
constexpr int64_t kLineSteps = 16;

// Calls multiply(n) for numbers of steps whose sum is `steps`; all but the last are even.
template <int kRows, typename Multiply>
LILY_INLINE void for_steps(int64_t steps, Multiply multiply) {
  multiply(steps);
}
// The same, and before each call prefetches a cache line of each of the next rows.
template <int kRows, typename Multiply>
LILY_INLINE void for_steps(int64_t steps, Multiply multiply, NextRows next) {
  for (int64_t k = 0; k < steps; k += kLineSteps) {
    const char *row = next.data + k * next.step_stride;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, row += next.row_stride) __builtin_prefetch(row);
    multiply(steps - k < kLineSteps ? steps - k : kLineSteps);
  }
}

// The register tile of a product that has one vector of columns in all, so that no cut of columns decides which tile
// computes an element. Multiply-adds take about four cycles and two of them begin per cycle, so six chains would leave
// multipliers idle: an element has two, one for the even and one for the odd steps of k.
template <typename T, int kRows, typename... Next>
void multiply_narrow_tile(int64_t steps, LeftOperand<T> lhs, const float *rhs, int64_t rhs_pitch, float *out,
                          int64_t out_pitch, bool accumulate, Next... next) {
  Vector even[kRows], odd[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) even[i] = odd[i] = Vector{};
  const typename T::Element *scalars = lhs.data;
  const auto multiply = [&](int64_t count) __attribute__((always_inline)) {
    for (int64_t k = 0; k + 1 < count; k += 2) {
      const Vector rhs_even = load(rhs), rhs_odd = load(rhs + rhs_pitch);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const typename T::Element *const row = scalars + i * lhs.row_stride;
        even[i] = T::multiply_add(T::step_of(row), rhs_even, even[i]);
        odd[i] = T::multiply_add(T::step_of(row + lhs.step_stride), rhs_odd, odd[i]);
      }
      scalars += 2 * lhs.step_stride;
      rhs += 2 * rhs_pitch;
    }
  };
  for_steps<kRows>(steps, multiply, next...);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (steps % 2 != 0) even[i] = T::multiply_add(T::step_of(scalars + i * lhs.row_stride), load(rhs), even[i]);
    const Vector sum = even[i] + odd[i];
    float *const target = out + i * out_pitch;
    store(target, accumulate ? load(target) + sum : sum);
  }
}

template <typename T, int kRows, int kVectors, typename Out = float, typename... Next>
void multiply_tile(int64_t steps, LeftOperand<T> lhs, const float *rhs, int64_t rhs_pitch, Out *out, int64_t out_pitch,
                   bool accumulate, Next... next) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vector{};
  }
  const typename T::Element *scalars = lhs.data;
  const auto multiply = [&](int64_t count) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; ++k) {
      Vector rhs_row[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) rhs_row[j] = load(rhs + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const auto scalar = T::step_of(scalars + i * lhs.row_stride);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sums[i][j] = T::multiply_add(scalar, rhs_row[j], sums[i][j]);
      }
      scalars += lhs.step_stride;
      rhs += rhs_pitch;
    }
  };
  for_steps<kRows>(steps, multiply, next...);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    Out *const target = out + i * out_pitch;
    if (accumulate) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sums[i][j] = load(target + j * kLanes) + sums[i][j];
    }
#pragma GCC unroll 8
    for (int j = 0; j + 1 < kVectors; j += 2) store_two(target + j * kLanes, sums[i][j], sums[i][j + 1]);
    if (kVectors % 2 != 0) store(target + (kVectors - 1) * kLanes, sums[i][kVectors - 1]);
  }
}

template <typename T, typename Out = float, typename... Next>
using Tile = void (*)(int64_t, LeftOperand<T>, const float *, int64_t, Out *, int64_t, bool, Next...);

template <typename T, int kVectors, typename Out>
constexpr Tile<T, Out> kTilesOfWidth[kTileRows] = {
    multiply_tile<T, 1, kVectors, Out>, multiply_tile<T, 2, kVectors, Out>, multiply_tile<T, 3, kVectors, Out>,
    multiply_tile<T, 4, kVectors, Out>, multiply_tile<T, 5, kVectors, Out>, multiply_tile<T, 6, kVectors, Out>};

template <typename T>
constexpr Tile<T> kNarrowTiles[kTileRows] = {multiply_narrow_tile<T, 1>, multiply_narrow_tile<T, 2>,
                                             multiply_narrow_tile<T, 3>, multiply_narrow_tile<T, 4>,
                                             multiply_narrow_tile<T, 5>, multiply_narrow_tile<T, 6>};

template <typename T, typename Out = float>
LILY_INLINE Tile<T, Out> tile_of(int64_t rows, int64_t vectors) {
#if LILY_VECTOR_REGISTERS == 32
  if (vectors == 4) return kTilesOfWidth<T, 4, Out>[rows - 1];
  if (vectors == 3) return kTilesOfWidth<T, 3, Out>[rows - 1];
#endif
  return vectors == 2 ? kTilesOfWidth<T, 2, Out>[rows - 1] : kTilesOfWidth<T, 1, Out>[rows - 1];
}

// The tiles of kTileRows rows that prefetch the next rows.
template <typename T>
LILY_INLINE Tile<T, float, NextRows> prefetching_tile_of(int64_t vectors) {
#if LILY_VECTOR_REGISTERS == 32
  if (vectors == 4) return multiply_tile<T, kTileRows, 4, float, NextRows>;
  if (vectors == 3) return multiply_tile<T, kTileRows, 3, float, NextRows>;
#endif
  return vectors == 2 ? multiply_tile<T, kTileRows, 2, float, NextRows>
                      : multiply_tile<T, kTileRows, 1, float, NextRows>;
}

LILY_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
LILY_INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
LILY_INLINE int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A matrix of `columns` columns is packed in panels (the term of BLAS libraries such as BLIS) of kPanel columns; the
// last panel may be narrower. Rows of a panel are contiguous and padded with zeros to whole vectors. Panel p starts at
// p * kPanel * R, where R is the number of rows, or of steps for rhs.
LILY_INLINE int64_t panel_columns(int64_t columns, int64_t panel) { return minimum(kPanel, columns - panel * kPanel); }
LILY_INLINE int64_t panel_count(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// The register tile of a product.
struct TileKind {
  bool is_narrow;   // the product has one vector of columns in all
  bool prefetches;  // the rows of lhs come from memory rather than from a cache
};

// sums (+)= lhs rhs for any number of rows, and columns in whole vectors. `next` are the rows that are read after those
// of lhs, if the tile prefetches.
template <typename T>
LILY_INLINE void multiply_rows(const ProductShape &shape, LeftOperand<T> lhs, const RightOperand &rhs, const Sums &sums,
                               bool accumulate, TileKind kind = {}, NextRows next = {}) {
  const int64_t vectors = shape.columns / kLanes;
  for (int64_t i = 0; i < shape.rows; i += kTileRows) {
    const LeftOperand<T> tile_lhs = {lhs.data + i * lhs.row_stride, lhs.row_stride, lhs.step_stride};
    const int64_t tile_rows = minimum(kTileRows, shape.rows - i);
    float *const tile_sums = sums.data + i * sums.pitch;
    if (kind.prefetches && tile_rows == kTileRows) {
      const auto tile = kind.is_narrow ? multiply_narrow_tile<T, kTileRows, NextRows> : prefetching_tile_of<T>(vectors);
      const NextRows tile_next = {next.data + i * next.row_stride, next.row_stride, next.step_stride};
      tile(shape.steps, tile_lhs, rhs.data, rhs.pitch, tile_sums, sums.pitch, accumulate, tile_next);
    } else {
      const auto tile = kind.is_narrow ? kNarrowTiles<T>[tile_rows - 1] : tile_of<T>(tile_rows, vectors);
      tile(shape.steps, tile_lhs, rhs.data, rhs.pitch, tile_sums, sums.pitch, accumulate);
    }
  }
}

LILY_INLINE int64_t element_bytes(const lily_matrix &matrix) { return matrix.dtype == LILY_FLOAT32 ? 4 : 2; }

// The part of a matrix that starts at (row, column).
LILY_INLINE lily_matrix submatrix(const lily_matrix &matrix, int64_t row, int64_t column) {
  lily_matrix result = matrix;
  result.data = static_cast<char *>(matrix.data) + (row * matrix.pitch + column) * element_bytes(matrix);
  return result;
}

// The same rows, from a token and a column on.
LILY_INLINE TokenRows rows_from(const TokenRows &rows, int64_t token, int64_t column) {
  if (rows.listed == nullptr) return {submatrix(rows.matrix, token, column), nullptr};
  return {submatrix(rows.matrix, 0, column), rows.listed + token};
}

// The first `count` rows without a list, if they follow each other.
LILY_INLINE TokenRows in_order(const TokenRows &rows, int64_t count) {
  if (rows.listed == nullptr || rows.listed[count - 1] - rows.listed[0] != count - 1) return rows;
  return {submatrix(rows.matrix, rows.listed[0], 0), nullptr};
}

// Prefetches the first rows and columns of a matrix, by cache lines of 64 bytes.
LILY_INLINE void prefetch(int64_t rows, int64_t columns, const lily_matrix &matrix) {
  const int64_t bytes = columns * element_bytes(matrix);
  for (int64_t i = 0; i < rows; ++i) {
    const char *row = static_cast<const char *>(submatrix(matrix, i, 0).data);
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte);
  }
}

// The size of a matrix above which prefetching its rows pays, as native/cpu/STEPS.md measured it: of a result, whose
// runs the hardware does not foresee at all, and of an operand. Below it the caches hold the rows, and prefetches cost
// time.
constexpr int64_t kPrefetchedResult = 2 << 20, kPrefetchedOperand = 8 << 20;

LILY_INLINE int64_t bytes_of(int64_t rows, int64_t columns, const lily_matrix &matrix) {
  return rows * columns * element_bytes(matrix);
}

// Prefetches results that follow panel `panel` in a register tile of rows: 512 bytes further on, or, at the
// end of the columns, in the next rows. A tile of results has runs that are too short for the hardware prefetcher.
// `out` begins with the first of `rows` rows; the first kTileRows of them are computed now.
LILY_INLINE void prefetch_ahead(int64_t rows, int64_t columns, int64_t panel, const lily_matrix &out) {
  const int64_t panels = panel_count(columns), ahead = panel + 512 / (kPanel * element_bytes(out));
  const int64_t first = ahead < panels ? 0 : kTileRows, later = ahead < panels ? ahead : ahead - panels;
  if (first >= rows || later >= panels) return;
  prefetch(minimum(kTileRows, rows - first), panel_columns(columns, later), submatrix(out, first, later * kPanel));
}

// out[i][j] (+)= scale * sums[i][j].
LILY_INLINE void write_rows(int64_t rows, int64_t columns, const float *sums, int64_t width, float scale,
                            const TokenRows &out, bool accumulate) {
  with_element(out.matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t i = 0; i < rows; ++i) {
      E *to = static_cast<E *>(out.matrix.data) + out.of(i) * out.matrix.pitch;
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        const Vector value = scale * load(sums + i * width + j);
        store_up_to(to + j, accumulate ? load_up_to(to + j, count) + value : value, count);
      });
    }
  });
}

LILY_INLINE void write_rows(int64_t rows, int64_t columns, const float *sums, int64_t width, float scale,
                            const lily_matrix &out, bool accumulate) {
  write_rows(rows, columns, sums, width, scale, TokenRows{out, nullptr}, accumulate);
}

// Multiplies at most kTileRows rows of a panel into `buffer`, whose rows are whole vectors.
template <typename T>
LILY_INLINE void multiply_into_buffer(int64_t rows, int64_t columns, int64_t steps, LeftOperand<T> lhs,
                                      const float *panel, float *buffer) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes, width = vectors * kLanes;
  tile_of<T>(rows, vectors)(steps, lhs, panel, width, buffer, width, false);
}

// Multiplies at most kTileRows rows into `out`, which may have any element type and a last vector of fewer columns. The
// register tile writes whole vectors of rows in order, so that one, and listed rows, go through a buffer on the stack.
template <typename T>
void multiply_into(int64_t rows, int64_t columns, int64_t steps, LeftOperand<T> lhs, const float *panel,
                   const TokenRows &listed_out) {
  const TokenRows rows_out = in_order(listed_out, rows);
  const lily_matrix &out = rows_out.matrix;
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  const int64_t width = vectors * kLanes;
  if (columns == width && rows_out.listed == nullptr) {
    with_element(out.dtype, [&](auto element) __attribute__((always_inline)) {
      using E = decltype(element);
      tile_of<T, E>(rows, vectors)(steps, lhs, panel, width, static_cast<E *>(out.data), out.pitch,
                                   out.accumulate != 0);
    });
    return;
  }
  float buffer[kTileRows * kPanel];
  multiply_into_buffer(rows, columns, steps, lhs, panel, buffer);
  write_rows(rows, columns, buffer, width, 1.0f, rows_out, out.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
