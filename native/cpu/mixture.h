// Panels of C_g = s sum_e w_ge B_e, made where they are used and never stored whole: once as it is (columns of d_out),
// once transposed (columns of r), for LoRA's transposed b the other way round. How operands of any element type become
// those of a tile: all conversions happen here, on the way into scratch. And what the passes do with a panel of sums
// when they are done with it.
#pragma once

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// A block of kPanel x kPanel numbers on the way from one layout to the other.
constexpr int64_t kBlockFloats = kPanel * kPanel;

// out[j][i] = scale * in[i][j] for i < rows, j < columns, joined to steps over j. Rows of out are `width` long, whole
// vectors; what lies behind the last row of `in` becomes zero.
template <typename T>
void transpose(int64_t rows, int64_t columns, const lily_matrix &in, float scale, float *out, int64_t width) {
  const int64_t steps = steps_of<T>(columns);
  with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *elements = static_cast<const decltype(element) *>(in.data);
    for (int64_t i = 0; i < width; i += kLanes) {
      for (int64_t j = 0; j < steps; j += kLanes) {
        Vector block[kLanes];
        const auto *corner = elements + i * in.pitch + j * T::kDepth;
        const int64_t count = columns - j * T::kDepth;
#pragma GCC unroll 16
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          block[lane] = i + lane < rows ? T::load_steps(corner + lane * in.pitch, count, scale) : Vector{};
        }
        transpose_block(block);
        const int64_t lanes = minimum(kLanes, steps - j);
        for (int64_t lane = 0; lane < lanes; ++lane) store(out + (j + lane) * width + i, block[lane]);
      }
    }
  });
}

// out[i][j] = scale * in[i][j], joined to steps over i, rows of out padded with zeros to `width`: `columns` in whole
// vectors.
template <typename T>
void copy_padded(int64_t rows, int64_t columns, const lily_matrix &in, float scale, float *out, int64_t width) {
  with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *elements = static_cast<const decltype(element) *>(in.data);
    for (int64_t i = 0; i < rows; i += T::kDepth) {
      const auto *row = elements + i * in.pitch;
      const int64_t count_rows = T::kDepth == 1 ? 1 : minimum(T::kDepth, rows - i);
      float *to = out + i / T::kDepth * width;
      const int64_t done = T::join_rows(row, in.pitch, count_rows, columns, scale, to);
      for_vectors(columns - done, [=](int64_t offset, int64_t count) __attribute__((always_inline)) {
        const int64_t j = done + offset;
        Vector values[T::kDepth];
        for (int64_t k = 0; k < T::kDepth; ++k) {
          values[k] = k < count_rows ? scale * load_up_to(row + k * in.pitch + j, count) : Vector{};
        }
        store(to + j, T::join(values));
      });
    }
  });
}

// The rows of a matrix as a tile's left operand: in place where the tile can take them so, else by way of `block`,
// which holds rows * round_up(depth, kLanes) floats.
template <typename T>
Left<T> left_rows(const lily_matrix &matrix, int64_t rows, int64_t depth, float *block) {
  if (matrix.dtype == T::kDtype && depth % T::kDepth == 0) {
    return {static_cast<const typename T::Element *>(matrix.data), matrix.pitch, T::kDepth};
  }
  const int64_t pitch = round_up(depth, kLanes);
  auto *const copy = reinterpret_cast<typename T::Element *>(block);
  with_element(matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto *from_row = static_cast<const decltype(element) *>(matrix.data) + i * matrix.pitch;
      for_vectors(depth, [=](int64_t k, int64_t count) __attribute__((always_inline)) {
        store(copy + i * pitch + k, load_up_to(from_row + k, count));
      });
    }
  });
  return {copy, pitch, T::kDepth};
}

// The columns of a matrix as a tile's left operand, k being its rows; `block` holds round_up(columns, kLanes) floats
// for each step.
template <typename T>
Left<T> left_columns(const lily_matrix &matrix, int64_t rows, int64_t columns, float *block) {
  if (matrix.dtype == T::kDtype && T::kDepth == 1) {
    return {static_cast<const typename T::Element *>(matrix.data), 1, matrix.pitch};
  }
  const int64_t width = round_up(columns, kLanes);
  copy_padded<T>(rows, columns, matrix, 1.0f, block, width);
  return {reinterpret_cast<const typename T::Element *>(block), T::kDepth, T::kDepth * width};
}

// Rows [row, row + rows) and columns [column, column + columns) of s sum_e w_e B_e, joined to steps over the rows, rows
// of out padded to `width`.
template <typename T>
void mix_rows(const Mixture &mixture, const float *weights, int64_t row, int64_t rows, int64_t column, int64_t columns,
              float *out, int64_t width) {
  const int64_t pitch = mixture.b.pitch, expert_pitch = mixture.rank * pitch;
  float scaled[kMaxExperts];
  for (int64_t e = 0; e < mixture.experts; ++e) scaled[e] = mixture.scaling * weights[e];
  with_element(mixture.b.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *first_row = static_cast<const decltype(element) *>(mixture.b.data) + row * pitch + column;
    for (int64_t i = 0; i < rows; i += T::kDepth) {
      const auto *first = first_row + i * pitch;
      const bool fills_step = i + T::kDepth <= rows;
      float *row_out = out + i / T::kDepth * width;
      for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        Vector sums[T::kDepth] = {};
        // Rows are too short for the processor to see a stream. One prefetch of a line is enough.
        const bool begins_line = sizeof(element) == 4 || j % 32 == 0;
        for (int64_t e = 0; e < mixture.experts; ++e) {
          const auto *from = first + e * expert_pitch + j;
#pragma GCC unroll 2
          for (int64_t k = 0; k < T::kDepth; ++k) {
            if (k == 0 || fills_step) sums[k] += scaled[e] * load_up_to(from + k * pitch, count);
            if (begins_line) __builtin_prefetch(from + (k + T::kDepth) * pitch);
          }
        }
        store(row_out + j, T::join(sums));
      });
    }
  });
}

// C[0 .. rank)[column .. column + columns), packed [step of rank][width].
void mix_panel(const Mixture &mixture, const float *weights, int64_t column, int64_t columns, float *out,
               int64_t width) {
  if (!mixture.transposed) {
    mix_rows<Operand>(mixture, weights, 0, mixture.rank, column, columns, out, width);
    return;
  }
  transpose<Operand>(columns, mixture.rank, from(mixture.b, column, 0), mixture.scaling, out, width);
}

// C^T of the same columns and of rows [row, row + rows) of C, packed [step of columns][width]; `block` holds
// kBlockFloats.
void mix_transposed_panel(const Mixture &mixture, const float *weights, int64_t row, int64_t rows, int64_t column,
                          int64_t columns, float *out, int64_t width, float *block) {
  if (mixture.transposed) {
    copy_padded<Operand>(columns, rows, from(mixture.b, column, row), mixture.scaling, out, width);
    return;
  }
  for (int64_t j = 0; j < columns; j += kPanel) {
    const int64_t block_columns = minimum(kPanel, columns - j);
    const lily_matrix mixed = {block, round_up(block_columns, kLanes), LILY_FLOAT32, 0};
    mix_rows<Floats>(mixture, weights, row, rows, column + j, block_columns, block, mixed.pitch);
    transpose<Operand>(rows, block_columns, mixed, 1.0f, out + j / Operand::kDepth * width, width);
  }
}

// sums += left^T right over `tokens` tokens: left has `rows` columns (left_columns), right is tokens x columns, sums
// are packed panels [rows][width]. `edge` holds kPanel floats per step of tokens: a panel of right, where a tile cannot
// take it in place.
template <typename T>
void add_outer_product(int64_t rows, int64_t tokens, const Left<T> &left, const lily_matrix &right, int64_t columns,
                       float *sums, float *edge) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    const int64_t width = round_up(panel, kLanes);
    const lily_matrix part = from(right, 0, p * kPanel);
    const float *panel_right = static_cast<const float *>(part.data);
    int64_t panel_pitch = right.pitch;
    if (T::kDepth > 1 || right.dtype != LILY_FLOAT32 || panel != width) {
      copy_padded<T>(tokens, panel, part, 1.0f, edge, width);
      panel_right = edge;
      panel_pitch = width;
    }
    multiply_rows(rows, width / kLanes, steps_of<T>(tokens), left, panel_right, panel_pitch, sums + p * kPanel * rows,
                  width, true);
  }
}

// u_t = p_t (x) h_t of one token, as elements of the large products.
void write_mixed_hidden(const lily_problem &problem, const lily_matrix &hidden, int64_t token,
                        const float *probabilities, const lily_matrix &mixed) {
  auto *const out = static_cast<Operand::Element *>(from(mixed, token, 0).data);
  with_element(hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *h = static_cast<const decltype(element) *>(hidden.data) + token * hidden.pitch;
    for (int64_t e = 0; e < problem.experts; ++e) {
      for_vectors(problem.rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_up_to(out + e * problem.rank + i, probabilities[e] * load_up_to(h + i, count), count);
      });
    }
  });
}

LILY_INLINE void clear(float *values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0.0f;
}

// out[i][j] (+)= scale * sums[i][j] of packed panels.
LILY_INLINE void write_panels(int64_t rows, int64_t columns, const float *sums, float scale, const lily_matrix &out,
                              bool accumulate) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    write_rows(rows, panel, sums + p * kPanel * rows, round_up(panel, kLanes), scale, from(out, 0, p * kPanel),
               accumulate);
  }
}

}  // namespace
}  // namespace lily::cpu
