// Panels of C_g = s sum_e w_ge B_e, made where they are used and never stored whole: once as it is (columns of d_out),
// once transposed (columns of r), for LoRA's transposed b the other way round. And what the passes do with a panel of
// sums when they are done with it.
#pragma once

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// A block of kPanel x kPanel numbers on the way from one layout to the other.
constexpr int64_t kBlockFloats = kPanel * kPanel;

// out[j][i] = scale * in[i][j] for i < rows, j < columns. Rows of out are `width` long, whole vectors; what lies behind
// the last row of `in` becomes zero.
LILY_INLINE void transpose(int64_t rows, int64_t columns, const float *in, int64_t in_pitch, float scale, float *out,
                           int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      Vector block[kLanes];
#pragma GCC unroll 16
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        block[lane] = i + lane < rows ? scale * load_up_to(in + (i + lane) * in_pitch + j, columns - j) : Vector{};
      }
      transpose_block(block);
      const int64_t count = minimum(kLanes, columns - j);
      for (int64_t lane = 0; lane < count; ++lane) store(out + (j + lane) * width + i, block[lane]);
    }
  }
}

// out[i][j] = scale * in[i][j], rows of out padded with zeros to `width`: `columns` in whole vectors.
LILY_INLINE void copy_padded(int64_t rows, int64_t columns, const float *in, int64_t in_pitch, float scale, float *out,
                             int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    const float *from = in + i * in_pitch;
    float *to = out + i * width;
    for_vectors(columns, [=](int64_t j, int64_t count)
                             __attribute__((always_inline)) { store(to + j, scale * load_up_to(from + j, count)); });
  }
}

// Rows [row, row + rows) and columns [column, column + columns) of s sum_e w_e B_e, rows of out padded to `width`.
LILY_INLINE void mix_rows(const Mixture &mixture, const float *weights, int64_t row, int64_t rows, int64_t column,
                          int64_t columns, float *out, int64_t width) {
  const int64_t expert_pitch = mixture.rank * mixture.pitch;
  float scaled[kMaxExperts];
  for (int64_t e = 0; e < mixture.experts; ++e) scaled[e] = mixture.scaling * weights[e];
  for (int64_t i = 0; i < rows; ++i) {
    const float *first = mixture.b + (row + i) * mixture.pitch + column;
    float *row_out = out + i * width;
    for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
      Vector sum = {};
      for (int64_t e = 0; e < mixture.experts; ++e) {
        const float *from = first + e * expert_pitch + j;
        sum += scaled[e] * load_up_to(from, count);
        __builtin_prefetch(from + mixture.pitch);  // rows are too short for the processor to see a stream
      }
      store(row_out + j, sum);
    });
  }
}

// C[0 .. rank)[column .. column + columns), packed [rank][width].
LILY_INLINE void mix_panel(const Mixture &mixture, const float *weights, int64_t column, int64_t columns, float *out,
                           int64_t width) {
  if (!mixture.transposed) {
    mix_rows(mixture, weights, 0, mixture.rank, column, columns, out, width);
    return;
  }
  transpose(columns, mixture.rank, mixture.b + column * mixture.pitch, mixture.pitch, mixture.scaling, out, width);
}

// C^T of the same columns and of rows [row, row + rows) of C, packed [columns][width]; `block` holds kBlockFloats.
LILY_INLINE void mix_transposed_panel(const Mixture &mixture, const float *weights, int64_t row, int64_t rows,
                                      int64_t column, int64_t columns, float *out, int64_t width, float *block) {
  if (mixture.transposed) {
    copy_padded(columns, rows, mixture.b + column * mixture.pitch + row, mixture.pitch, mixture.scaling, out, width);
    return;
  }
  for (int64_t j = 0; j < columns; j += kPanel) {
    const int64_t block_columns = minimum(kPanel, columns - j);
    mix_rows(mixture, weights, row, rows, column + j, block_columns, block, round_up(block_columns, kLanes));
    transpose(rows, block_columns, block, round_up(block_columns, kLanes), 1.0f, out + j * width, width);
  }
}

// sums += left^T right over `tokens` tokens: left is tokens x rows (read transposed), right tokens x columns, sums are
// packed panels [rows][width]. `edge` holds tokens * kPanel floats: right's last columns, padded to whole vectors.
LILY_INLINE void add_outer_product(int64_t rows, int64_t tokens, const float *left, int64_t left_pitch,
                                   const float *right, int64_t right_pitch, int64_t columns, float *sums, float *edge) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    const int64_t width = round_up(panel, kLanes);
    const float *panel_right = right + p * kPanel;
    int64_t panel_pitch = right_pitch;
    if (panel != width) {
      copy_padded(tokens, panel, panel_right, right_pitch, 1.0f, edge, width);
      panel_right = edge;
      panel_pitch = width;
    }
    multiply_rows(rows, width / kLanes, tokens, Left{left, 1, left_pitch}, panel_right, panel_pitch,
                  sums + p * kPanel * rows, width, true);
  }
}

// u_t = p_t (x) h_t of one token.
LILY_INLINE void write_mixed_hidden(const lily_problem &problem, const float *hidden, const float *probabilities,
                                    float *mixed) {
  for (int64_t e = 0; e < problem.experts; ++e) {
    for (int64_t i = 0; i < problem.rank; ++i) mixed[e * problem.rank + i] = probabilities[e] * hidden[i];
  }
}

LILY_INLINE void clear(float *values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0.0f;
}

// out[i][j] (+)= scale * sums[i][j] of packed panels.
LILY_INLINE void write_panels(int64_t rows, int64_t columns, const float *sums, float scale, float *out, int64_t pitch,
                              bool accumulate) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    const int64_t width = round_up(panel, kLanes);
    const float *from = sums + p * kPanel * rows;
    for (int64_t i = 0; i < rows; ++i) {
      float *to = out + i * pitch + p * kPanel;
      for_vectors(panel, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        const Vector value = scale * load(from + i * width + j);
        store_up_to(to + j, accumulate ? load_up_to(to + j, count) + value : value, count);
      });
    }
  }
}

}  // namespace
}  // namespace lily::cpu
