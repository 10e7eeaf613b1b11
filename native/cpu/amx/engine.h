// The engine of AMX: products of bfloat16 tiles. blocked/engine.h explains the interface.
#pragma once

#include "cpu/amx/product.h"
#include "cpu/blocked/blocking.h"

namespace lily::cpu {
namespace {

struct Engine {
  // Sums are blocks of 32 x 32, which are four tiles.
  static constexpr Blocking kBlocking = {
      .step_depth = kStepDepth,
      .block_rows = 32,
      .panel = 32,
      .panel_bytes = 2048 * kTerms,
      .block_bytes = 2048 * kTerms,
      // A block of lhs of 32 KiB stays in the L1 cache while panels of rhs pass. With two terms both operands are
      // loaded more than once per step and stay there: 16 KiB each.
      .chunk_depth = kTerms == 1 ? 512 : 128,
      .run_columns = 128,  // 16 KiB of sums, and runs of 256 bytes of y
      .few_tokens = 32,
      .exchanges = true,
      .prefetches = false,
      .many_tasks = false,
      .l2_bytes = 2 << 20,
      .cached_bytes = 512 << 10,
      .packed_bytes = 3 << 20,
      .sum_bytes = 512 << 10,
      .widest_outer = 2048,  // a longer run of a row gains nothing
      .rank_unit = 32,
      .widest_ranks = 448,
      .most_tokens = 512,
      .shared_ranks = 256,
      .one_sweep_rank = 256,
      .by_panel_rank = 128,
  };

  using Scope = TileScope;
  using Lhs = TileLhs;
  using Row = ::lily::cpu::Row;
  static constexpr int64_t kRowColumns = 32;
  static constexpr int64_t kDotChains = 1;

  static LILY_INLINE BFloat16 *halves_at(float *packed) { return reinterpret_cast<BFloat16 *>(packed); }
  static LILY_INLINE const BFloat16 *halves_at(const float *packed) {
    return reinterpret_cast<const BFloat16 *>(packed);
  }

  // ---- Right operands ----

  template <Columns kColumns>
  static LILY_INLINE void pack(const lily_matrix &in, int64_t rows, int64_t columns, float scale, const uint8_t *keeps,
                               float *out, int64_t panel_pitch) {
    with_scaled(in, rows, columns, scale, keeps, [&](const auto &matrix) __attribute__((always_inline)) {
      pack_rhs<kColumns>(matrix, tile_steps(rows), halves_at(out), 2 * panel_pitch);
    });
  }

  static LILY_INLINE void pack_kept(const lily_matrix &in, int64_t rows, int64_t columns, const Mask &mask, float *out,
                                    int64_t panel_pitch) {
    pack_rhs<Columns::kOfActivation>(kept_matrix_of(in, rows, columns, mask), tile_steps(rows), halves_at(out),
                                     2 * panel_pitch);
  }

  template <Columns kColumns>
  static LILY_INLINE void pack_transposed(const lily_matrix &in, int64_t rows, int64_t columns, float scale, float *out,
                                          int64_t panel_pitch) {
    with_scaled(in, rows, columns, scale, nullptr, [&](const auto &matrix) __attribute__((always_inline)) {
      for (int64_t n = 0; n < rows; n += 32) {
        pack_rhs_transposed<kColumns>(matrix, n, tile_steps(columns), halves_at(out + n / 32 * panel_pitch));
      }
    });
  }

  static LILY_INLINE void pack_few_tokens(const lily_matrix &in, int64_t tokens, int64_t begin, int64_t end,
                                          bool clears, float *out) {
    ::lily::cpu::pack_few_tokens(matrix_of(in, tokens, end), begin, tile_steps(end - begin), clears, halves_at(out));
  }

  static LILY_INLINE void pack_kept_tokens(const lily_matrix &in, int64_t tokens, int64_t columns, const Mask &mask,
                                           bool clears, float *out) {
    ::lily::cpu::pack_few_tokens(kept_matrix_of(in, tokens, columns, mask), 0, tile_steps(columns), clears,
                                 halves_at(out));
  }

  static LILY_INLINE void pack_combined(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns,
                                        float *out) {
    const int64_t steps = tile_steps(stack.rank);
    if (stack.transposed) {
      pack_transposed<Columns::kOfActivation>(submatrix(stack.b, begin, 0), columns, stack.rank, stack.scaling, out,
                                              steps * kStepHalves / 2);
      return;
    }
    with_combined(stack, group, begin, columns, [&](const auto &combined) __attribute__((always_inline)) {
      pack_rhs<Columns::kOfActivation>(combined, steps, halves_at(out), steps * kStepHalves);
    });
  }

  // `scratch` holds 32 rows of the columns of the part.
  static LILY_INLINE void pack_combined_transposed(const ExpertStack &stack, const CombinedPart &part, float *out,
                                                   int64_t panel_pitch, float *scratch) {
    const int64_t steps = tile_steps(part.columns);
    if (stack.transposed) {
      pack<Columns::kInOrder>(submatrix(stack.b, part.column, part.row), part.columns, part.rows, stack.scaling,
                              nullptr, out, panel_pitch);
      return;
    }
    auto *const rows = reinterpret_cast<Operand::Element *>(scratch);
    with_combined(
        stack, part.group, part.column, part.columns, [&](const auto &combined) __attribute__((always_inline)) {
          const int64_t pitch = steps * kStepDepth;
          for (int64_t n = 0; n < part.rows; n += 32) {
            const int64_t count = minimum(32, part.rows - n);
            for (int64_t i = 0; i < count; ++i) {
              for (int64_t j = 0; j < pitch; j += 32) {
                store_row(rows + i * pitch + j, combined.row(part.row + n + i, j), 32);
              }
            }
            pack_rhs_transposed<Columns::kInOrder>(ScaledMatrix<Operand::Element>{rows, pitch, count, pitch, 1.0f}, 0,
                                                   steps, halves_at(out + n / 32 * panel_pitch));
          }
        });
  }
  static LILY_INLINE int64_t combined_scratch_floats(int64_t columns) {
    return 32 * round_up(columns, 32) * static_cast<int64_t>(sizeof(Operand::Element)) / 4;
  }

  // ---- Left operands ----

  static LILY_INLINE Lhs lhs(const lily_matrix &in, int64_t rows, int64_t columns, int64_t row, int64_t begin,
                             int64_t steps, bool reused, float *copy) {
    // A lhs that is read again is copied: at a pitch that is a multiple of 4 KiB its rows would displace each other in
    // the L1 cache.
    Lhs result;
    with_scaled(in, rows, columns, 1.0f, nullptr, [&](const auto &matrix) __attribute__((always_inline)) {
      result = lhs_of(matrix, row, begin, steps, reused, halves_at(copy));
    });
    return result;
  }
  static LILY_INLINE Lhs kept_lhs(const lily_matrix &in, int64_t rows, int64_t columns, const Mask &mask, float *copy) {
    return copy_lhs(kept_matrix_of(in, rows, columns, mask), 0, 0, tile_steps(columns), halves_at(copy));
  }
  static constexpr int64_t lhs_floats(int64_t steps) { return steps * kStepHalves / 2; }

  static LILY_INLINE Lhs from_step(Lhs lhs, int64_t step) {
    lhs.data += step * lhs.step_pitch;
    return lhs;
  }
  static LILY_INLINE Lhs packed_lhs(const float *packed) { return ::lily::cpu::packed_lhs(halves_at(packed)); }

  static LILY_INLINE void pack_lhs(const lily_matrix &in, int64_t tokens, int64_t columns, float *out,
                                   int64_t block_pitch) {
    pack_lhs_transposed(matrix_of(in, tokens, columns), tile_steps(tokens), halves_at(out), 2 * block_pitch);
  }

  // The rows of s C: [block of 32 rows][step], as tiles.
  static LILY_INLINE void copy_combined(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns,
                                        float *out) {
    const int64_t steps = tile_steps(columns);
    with_combined(stack, group, begin, columns, [&](const auto &c) __attribute__((always_inline)) {
      for (int64_t n = 0; n < stack.rank; n += 32)
        copy_lhs(c, n, 0, steps, halves_at(out) + n / 32 * steps * kStepHalves);
    });
  }
  static LILY_INLINE Lhs combined_lhs(const float *combined, int64_t columns, int64_t row, int64_t begin) {
    const int64_t step = row / 32 * tile_steps(columns) + begin / kStepDepth;
    return ::lily::cpu::packed_lhs(halves_at(combined) + step * kStepHalves);
  }

  // ---- The product ----

  // Both tiles of a panel of an activation are computed, because the first has the even columns.
  template <Columns kColumns, Order kOrder = Order::kOfProblem>
  static LILY_INLINE void multiply(const ProductShape &shape, const Lhs &lhs, const float *rhs, const Sums &sums,
                                   bool accumulate) {
    const int64_t columns = kColumns == Columns::kOfActivation ? 32 : shape.columns;
    multiply_tiles({shape.rows, columns, shape.steps}, lhs, halves_at(rhs), sums, accumulate, kOrder);
  }

  // ---- Results ----

  static LILY_INLINE bool adds_in_place(const lily_matrix &, int64_t) { return false; }

  template <typename Body>
  static LILY_INLINE void with_type(int32_t dtype, Body body) {
    with_parameter(dtype, body);
  }

  template <typename Body>
  static LILY_INLINE void with_activation(int32_t, Body body) {
    body(Operand::Element{});
  }

  static LILY_INLINE Row load_sums(const float *sums) { return {load(sums), load(sums + 16)}; }
  template <typename E>
  static LILY_INLINE Row load_row(const E *row, int64_t count) {
    return ::lily::cpu::load_row(row, count);
  }
  template <typename E>
  static LILY_INLINE void write_row(E *row, Vector factor, Row value, int64_t count, bool accumulate) {
    ::lily::cpu::write_row(row, factor, value, count, accumulate);
  }
  template <typename E>
  static LILY_INLINE void write_kept_row(E *row, const uint8_t *kept, int64_t j, Row value, int64_t count,
                                         bool accumulate) {
    const uint32_t bits = bits_of_row(kept, j), even = even_bits(bits), odd = even_bits(bits >> 1);
    const Row old = accumulate ? ::lily::cpu::load_row(row, count) : Row{};
    if (accumulate) value = {old.even + value.even, old.odd + value.odd};
    store_row(row, {select_lanes(even, value.even, old.even), select_lanes(odd, value.odd, old.odd)}, count);
  }
  static LILY_INLINE void add_product(const Row &a, const Row &b, Row &sum) {
    sum.even += a.even * b.even;
    sum.odd += a.odd * b.odd;
  }
  static LILY_INLINE double sum_of(const Row &row) {
    return static_cast<double>(sum_lanes(row.even)) + sum_lanes(row.odd);
  }

  // out[j][i] (+)= scale * sums[i][j] for a panel of columns of an activation: squares of 16 of every other row.
  static LILY_INLINE void write_transposed(int64_t rows, int64_t columns, const float *sums, float scale,
                                           const lily_matrix &out) {
    with_parameter(out.dtype, [&](auto element) __attribute__((always_inline)) {
      using E = decltype(element);
      for (int64_t n = 0; n < rows; n += 16) {
        for (int64_t odd = 0; odd < 2; ++odd) {
          Vector square[16];
          for (int64_t i = 0; i < 16; ++i) square[i] = load(sums + (n + i) * 32 + odd * 16);
          transpose_square(square);
          for (int64_t i = 0; i < 16 && 2 * i + odd < columns; ++i) {
            E *row = static_cast<E *>(submatrix(out, 2 * i + odd, n).data);
            const int64_t count = minimum(16, rows - n);
            const Vector value = scale * square[i];
            store_up_to(row, out.accumulate != 0 ? load_up_to(row, count) + value : value, count);
          }
        }
      }
    });
  }
};

}  // namespace
}  // namespace lily::cpu
