// The register tile: the one piece of code in which the CPU backend multiplies matrices.
//
//   out[i][j] (+)= sum_k left(i, k) * right[k][j]      i < rows <= 6, j < vectors * lanes, vectors <= kPanelVectors
//
// `left` is read a scalar at a time with any two strides, so that h and h^T are the same to it; `right` and `out` are
// read and written in whole vectors. One chain of fused multiply-adds per element, k ascending: the result does not
// depend on how rows and columns were cut into tiles.
#pragma once

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

// Six rows: at a power-of-two pitch all rows of an activation share one set of the L1 cache, which has eight ways.
constexpr int64_t kTileRows = 6;

// 6 x 4 vectors of sums fill AVX-512's 32 registers, 6 x 2 the 16 of AVX2 and of SSE.
constexpr int64_t kPanelVectors = LILY_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

struct Left {
  const float *data;
  int64_t row;    // elements from one row to the next
  int64_t depth;  // elements from one k to the next
};

template <int kRows, int kVectors>
void multiply_tile(int64_t depth, Left left, const float *right, int64_t right_pitch, float *out, int64_t out_pitch,
                   bool accumulate) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vector{};
  }
  const float *scalars = left.data;
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    Vector columns[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) columns[j] = load(right + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const float scalar = scalars[i * left.row];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sums[i][j] += scalar * columns[j];
    }
    scalars += left.depth;
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

using Tile = void (*)(int64_t, Left, const float *, int64_t, float *, int64_t, bool);

template <int kVectors>
constexpr Tile kTilesOfWidth[kTileRows] = {multiply_tile<1, kVectors>, multiply_tile<2, kVectors>,
                                           multiply_tile<3, kVectors>, multiply_tile<4, kVectors>,
                                           multiply_tile<5, kVectors>, multiply_tile<6, kVectors>};

LILY_INLINE Tile tile_of(int64_t rows, int64_t vectors) {
#if LILY_VECTOR_BYTES == 64
  if (vectors == 4) return kTilesOfWidth<4>[rows - 1];
  if (vectors == 3) return kTilesOfWidth<3>[rows - 1];
#endif
  return vectors == 2 ? kTilesOfWidth<2>[rows - 1] : kTilesOfWidth<1>[rows - 1];
}

LILY_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
LILY_INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
LILY_INLINE int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Columns of a row-major matrix of `columns` columns are taken in panels of kPanel; the last one may be narrower. A
// packed panel is padded with zeros to whole vectors, and panel p of a matrix with R rows starts at p * kPanel * R.
LILY_INLINE int64_t panel_columns(int64_t columns, int64_t panel) { return minimum(kPanel, columns - panel * kPanel); }
LILY_INLINE int64_t panel_count(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// Any number of rows.
LILY_INLINE void multiply_rows(int64_t rows, int64_t vectors, int64_t depth, Left left, const float *right,
                               int64_t right_pitch, float *out, int64_t out_pitch, bool accumulate) {
  for (int64_t i = 0; i < rows; i += kTileRows) {
    const Left tile_left = {left.data + i * left.row, left.row, left.depth};
    tile_of(minimum(kTileRows, rows - i), vectors)(depth, tile_left, right, right_pitch, out + i * out_pitch, out_pitch,
                                                   accumulate);
  }
}

// At most kTileRows rows into an operand whose last columns may not fill a vector.
LILY_INLINE void multiply_into(int64_t rows, int64_t columns, int64_t depth, Left left, const float *panel, float *out,
                               int64_t out_pitch, bool accumulate) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  const int64_t width = vectors * kLanes;
  const Tile tile = tile_of(rows, vectors);
  if (columns == width) {
    tile(depth, left, panel, width, out, out_pitch, accumulate);
    return;
  }
  float edge[kTileRows * kPanel];
  tile(depth, left, panel, width, edge, width, false);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      float &target = out[i * out_pitch + j];
      target = accumulate ? target + edge[i * width + j] : edge[i * width + j];
    }
  }
}

}  // namespace
}  // namespace lily::cpu
