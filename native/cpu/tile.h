// The register tile: the one piece of code in which the CPU backend multiplies matrices.
//
//   out[i][j] (+)= sum_k left(i, k) * right[k][j]      i < rows <= 6, j < vectors * lanes, vectors <= kPanelVectors
//
// `left` is read a step of k at a time with any two strides, so that h and h^T are the same to it; `right` and `out`
// are read and written in whole vectors. One chain of fused multiply-adds per element, k ascending: the result does not
// depend on how rows and columns were cut into tiles.
//
// A step of k is one number of float32 (Floats), or a pair of neighbours of bfloat16 in the 4 bytes of one (Pairs).
#pragma once

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

// How a product takes its operands: `kDepth` values of k to a step.
struct Floats {
  using Element = float;  // of left
  static constexpr int32_t kDtype = LILY_FLOAT32;
  static constexpr int64_t kDepth = 1;

  static LILY_INLINE float step_of(const float *left) { return *left; }
  static LILY_INLINE Vector multiply_add(float left, Vector right, Vector sum) { return sum + left * right; }

  // A step of right from its rows.
  static LILY_INLINE Vector join(const Vector (&rows)[kDepth]) { return rows[0]; }

  // Steps from `count` rows of memory, as many columns as there is a quicker way for; returns their number.
  template <typename E>
  static LILY_INLINE int64_t join_rows(const E *, int64_t, int64_t, int64_t, float, float *) {
    return 0;
  }

  // kLanes steps of one row, from `count` elements on; zeros behind them.
  template <typename E>
  static LILY_INLINE Vector load_steps(const E *row, int64_t count, float scale) {
    return scale * load_up_to(row, count);
  }
};

#if defined(__AVX512BF16__)
// The products and sums of VDPBF16PS are float32; its inputs and sums flush subnormal numbers to zero.
struct Pairs {
  using Element = BFloat16;
  static constexpr int32_t kDtype = LILY_BFLOAT16;
  static constexpr int64_t kDepth = 2;

  // Any address of an element will do.
  static LILY_INLINE Vector step_of(const BFloat16 *left) {
    typedef uint32_t Step __attribute__((aligned(2), may_alias));
    return (Vector)(*reinterpret_cast<const Step *>(left) - BitVector{});
  }
  static LILY_INLINE Vector multiply_add(Vector left, Vector right, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }

  // 0, odd, 1, odd + 1, ...
  static LILY_INLINE __m512i interleaving(int odd) {
    const __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_or_si512(step, _mm512_slli_epi32(_mm512_add_epi32(step, _mm512_set1_epi32(odd)), 16));
  }

  static LILY_INLINE Vector join(const Vector (&rows)[kDepth]) {
    // All even numbers, then all odd ones.
    const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh((__m512)rows[1], (__m512)rows[0]);
    return (Vector)_mm512_permutexvar_epi16(interleaving(16), apart);
  }

  template <typename E>
  static LILY_INLINE int64_t join_rows(const E *, int64_t, int64_t, int64_t, float, float *) {
    return 0;
  }
  static LILY_INLINE int64_t join_rows(const BFloat16 *rows, int64_t pitch, int64_t count, int64_t columns, float scale,
                                       float *out) {
    if (count < kDepth || scale != 1.0f) return 0;
    const __m512i first = interleaving(32), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    int64_t j = 0;
    for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
      const __m512i even = (__m512i)load_bytes(rows + j);
      const __m512i odd = (__m512i)load_bytes(rows + pitch + j);
      store(out + j, (Vector)_mm512_permutex2var_epi16(even, first, odd));
      store(out + j + kLanes, (Vector)_mm512_permutex2var_epi16(even, second, odd));
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

// What the passes of this instruction set take the large products' operands as; the small ones are of Floats.
using Operand = LILY_OPERAND;

// Steps of k in `depth` values of it; the last may be partly filled, with zeros.
template <typename T>
LILY_INLINE int64_t steps_of(int64_t depth) {
  return (depth + T::kDepth - 1) / T::kDepth;
}

// Six rows: at a power-of-two pitch all rows of an activation share one set of the L1 cache, which has eight ways.
constexpr int64_t kTileRows = 6;

// 6 x 4 vectors of sums fill the 32 registers of AVX-512 and of NEON, 6 x 2 the 16 of AVX2 and of SSE.
constexpr int64_t kPanelVectors = LILY_VECTOR_REGISTERS == 32 ? 4 : 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

template <typename T>
struct Left {
  const typename T::Element *data;
  int64_t row;   // elements from one row to the next
  int64_t step;  // elements from one step of k to the next
};

template <typename T, int kRows, int kVectors>
void multiply_tile(int64_t steps, Left<T> left, const float *right, int64_t right_pitch, float *out, int64_t out_pitch,
                   bool accumulate) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vector{};
  }
  const typename T::Element *scalars = left.data;
#pragma GCC unroll 2
  for (int64_t k = 0; k < steps; ++k) {
    Vector columns[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) columns[j] = load(right + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto scalar = T::step_of(scalars + i * left.row);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sums[i][j] = T::multiply_add(scalar, columns[j], sums[i][j]);
    }
    scalars += left.step;
    right += right_pitch;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      float *target = out + i * out_pitch + j * kLanes;
      store(target, accumulate ? load(target) + sums[i][j] : sums[i][j]);
    }
  }
}

template <typename T>
using Tile = void (*)(int64_t, Left<T>, const float *, int64_t, float *, int64_t, bool);

template <typename T, int kVectors>
constexpr Tile<T> kTilesOfWidth[kTileRows] = {multiply_tile<T, 1, kVectors>, multiply_tile<T, 2, kVectors>,
                                              multiply_tile<T, 3, kVectors>, multiply_tile<T, 4, kVectors>,
                                              multiply_tile<T, 5, kVectors>, multiply_tile<T, 6, kVectors>};

template <typename T>
LILY_INLINE Tile<T> tile_of(int64_t rows, int64_t vectors) {
#if LILY_VECTOR_REGISTERS == 32
  if (vectors == 4) return kTilesOfWidth<T, 4>[rows - 1];
  if (vectors == 3) return kTilesOfWidth<T, 3>[rows - 1];
#endif
  return vectors == 2 ? kTilesOfWidth<T, 2>[rows - 1] : kTilesOfWidth<T, 1>[rows - 1];
}

LILY_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
LILY_INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
LILY_INLINE int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Columns of a row-major matrix of `columns` columns are taken in panels of kPanel; the last one may be narrower. A
// packed panel is padded with zeros to whole vectors, and panel p of a matrix with R rows, or of right with R steps,
// starts at p * kPanel * R.
LILY_INLINE int64_t panel_columns(int64_t columns, int64_t panel) { return minimum(kPanel, columns - panel * kPanel); }
LILY_INLINE int64_t panel_count(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// Any number of rows.
template <typename T>
LILY_INLINE void multiply_rows(int64_t rows, int64_t vectors, int64_t steps, Left<T> left, const float *right,
                               int64_t right_pitch, float *out, int64_t out_pitch, bool accumulate) {
  for (int64_t i = 0; i < rows; i += kTileRows) {
    const Left<T> tile_left = {left.data + i * left.row, left.row, left.step};
    tile_of<T>(minimum(kTileRows, rows - i), vectors)(steps, tile_left, right, right_pitch, out + i * out_pitch,
                                                      out_pitch, accumulate);
  }
}

// A matrix of any element type from one of its elements on.
LILY_INLINE lily_matrix from(const lily_matrix &matrix, int64_t row, int64_t column) {
  const int64_t bytes = matrix.dtype == LILY_FLOAT32 ? 4 : 2;
  lily_matrix part = matrix;
  part.data = static_cast<char *>(matrix.data) + (row * matrix.pitch + column) * bytes;
  return part;
}

// out[i][j] (+)= scale * sums[i][j].
LILY_INLINE void write_rows(int64_t rows, int64_t columns, const float *sums, int64_t width, float scale,
                            const lily_matrix &out, bool accumulate) {
  with_element(out.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t i = 0; i < rows; ++i) {
      E *to = static_cast<E *>(out.data) + i * out.pitch;
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        const Vector value = scale * load(sums + i * width + j);
        store_up_to(to + j, accumulate ? load_up_to(to + j, count) + value : value, count);
      });
    }
  });
}

// At most kTileRows rows into an operand of any element type, whose last columns may not fill a vector.
template <typename T>
void multiply_into(int64_t rows, int64_t columns, int64_t steps, Left<T> left, const float *panel,
                   const lily_matrix &out) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  const int64_t width = vectors * kLanes;
  const Tile<T> tile = tile_of<T>(rows, vectors);
  if (out.dtype == LILY_FLOAT32 && columns == width) {
    tile(steps, left, panel, width, static_cast<float *>(out.data), out.pitch, out.accumulate != 0);
    return;
  }
  float edge[kTileRows * kPanel];
  tile(steps, left, panel, width, edge, width, false);
  write_rows(rows, columns, edge, width, 1.0f, out, out.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
