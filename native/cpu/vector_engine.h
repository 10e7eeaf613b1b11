// The engine of the vector kernels: blocks of one register tile (tile.h). blocked/engine.h explains the interface.
//
//   rhs   [panel of kPanel columns][step of k][kPanel]; the last panel of a matrix may leave its last vectors unset
//   lhs   rows copied to a pitch at which they do not displace each other in the L1 cache; or packed
//         [block of kTileRows rows][step of k][kTileRows]
//
// A block of sums is one chain per chunk of k, and the chunks are added in order.
#pragma once

#include "cpu/blocked/blocking.h"
#include "cpu/expert_stack.h"

namespace lily::cpu {
namespace {

struct Engine {
  // Bytes that an L2 cache of 1 MiB keeps. With 2 MiB, twice as many bytes gained 1 % of a call.
  static constexpr int64_t kCachedBytes = 448 << 10;
  // The measurements are steps in native/cpu/STEPS.md.
  static constexpr Blocking kBlocking = {
      .step_depth = Operand::kDepth,
      .block_rows = kTileRows,
      .panel = kPanel,
      .panel_bytes = 4 * kPanel,
      .block_bytes = 4 * kTileRows,
      .chunk_depth = 256 * Operand::kDepth,
      .run_columns = 128,
      .few_tokens = 32,
      .exchanges = false,
      .prefetches = true,
      .many_tasks = true,
      .l2_bytes = 1 << 20,
      .cached_bytes = kCachedBytes,
      .packed_bytes = kCachedBytes,
      .sum_bytes = 512 << 10,  // 256 KiB, 1 and 2 MiB were no faster
      .widest_outer = 384,     // with up to 512 columns D was slower: 0.94 ms, not 0.77
      .rank_unit = kLanes,
      .widest_ranks = 448,     // their chunk has kCachedBytes
      .most_tokens = 1 << 30,  // no limit
      .shared_ranks = 320,     // from 256 on, forward with 2048 tokens was slower
      .one_sweep_rank = 0,     // a second sweep of dy instead of partial sums of q
      .by_panel_rank = 0,
  };

  // A task needs no preparation.
  struct Scope {
    LILY_INLINE Scope() {}
    LILY_INLINE ~Scope() {}
  };
  using Lhs = LeftOperand<Operand>;
  using Element = Operand::Element;
  using Row = Vector;
  static constexpr int64_t kRowColumns = kLanes;
  static constexpr int64_t kDotChains = 4;  // the latency of a multiply-add

  // ---- Right operands ----

  template <Columns>
  static LILY_INLINE void pack(const lily_matrix &in, int64_t rows, int64_t columns, float scale, const uint8_t *keeps,
                               float *out, int64_t panel_pitch) {
    // Some rows at a time, so that few pages are read at once.
    constexpr int64_t kRows = 16;
    for (int64_t k = 0; k < rows; k += kRows) {
      for (int64_t p = 0; p < panel_count(columns); ++p) {
        ::lily::cpu::pack<Operand>(minimum(kRows, rows - k), panel_columns(columns, p), submatrix(in, k, p * kPanel),
                                   scale, out + p * panel_pitch + k / Operand::kDepth * kPanel, kPanel,
                                   keeps == nullptr ? nullptr : keeps + k);
      }
    }
  }

  static LILY_INLINE void pack_kept(const lily_matrix &in, int64_t rows, int64_t columns, const Mask &mask, float *out,
                                    int64_t panel_pitch) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      ::lily::cpu::pack_kept<Operand>(rows, panel_columns(columns, p), submatrix(in, 0, p * kPanel),
                                      mask.from_column(p * kPanel), out + p * panel_pitch, kPanel);
    }
  }

  template <Columns>
  static LILY_INLINE void pack_transposed(const lily_matrix &in, int64_t rows, int64_t columns, float scale, float *out,
                                          int64_t panel_pitch) {
    for (int64_t p = 0; p < panel_count(rows); ++p) {
      ::lily::cpu::pack_transposed<Operand>(panel_columns(rows, p), columns, submatrix(in, p * kPanel, 0), scale,
                                            out + p * panel_pitch, kPanel);
    }
  }

  static LILY_INLINE void pack_combined(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns,
                                        float *out) {
    combine_panels(stack, group, begin, columns, out, kPanel);
  }

  static LILY_INLINE void pack_combined_transposed(const ExpertStack &stack, const CombinedPart &part, float *out,
                                                   int64_t panel_pitch, float *scratch) {
    for (int64_t p = 0; p < panel_count(part.rows); ++p) {
      CombinedPart panel = part;
      panel.row += p * kPanel;
      panel.rows = panel_columns(part.rows, p);
      combine_transposed_panel(stack, panel, out + p * panel_pitch, kPanel, scratch);
    }
  }
  static LILY_INLINE int64_t combined_scratch_floats(int64_t) { return kTransposeScratchFloats; }

  // ---- Left operands ----

  static constexpr int64_t lhs_pitch(int64_t steps) { return (steps + 15) / 16 * 16 + 16; }
  static constexpr int64_t lhs_floats(int64_t steps) { return kTileRows * lhs_pitch(steps); }

  static LILY_INLINE Lhs lhs(const lily_matrix &in, int64_t rows, int64_t columns, int64_t row, int64_t begin,
                             int64_t steps, bool, float *copy) {
    const int64_t pitch = lhs_pitch(steps) * Operand::kDepth;
    const int64_t depth = minimum(columns - begin, steps * Operand::kDepth);
    auto *const out = reinterpret_cast<Element *>(copy);
    with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
      for (int64_t i = 0; i < minimum(kTileRows, rows - row); ++i) {
        const auto *from = static_cast<const decltype(element) *>(in.data) + (row + i) * in.pitch + begin;
        copy_row(from, depth, out + i * pitch);
      }
    });
    return {out, pitch, Operand::kDepth};
  }

  static LILY_INLINE Lhs kept_lhs(const lily_matrix &in, int64_t rows, int64_t columns, const Mask &mask, float *copy) {
    const int64_t pitch = lhs_pitch(steps_of<Operand>(columns)) * Operand::kDepth;
    auto *const out = reinterpret_cast<Element *>(copy);
    with_element(in.dtype, [&](auto element) __attribute__((always_inline)) {
      for (int64_t i = 0; i < rows; ++i) {
        copy_kept_row(static_cast<const decltype(element) *>(in.data) + i * in.pitch, columns, mask.row(i),
                      out + i * pitch);
      }
    });
    return {out, pitch, Operand::kDepth};
  }

  static LILY_INLINE Lhs from_step(Lhs lhs, int64_t step) {
    lhs.data += step * lhs.step_stride;
    return lhs;
  }

  static LILY_INLINE Lhs packed_lhs(const float *packed) {
    return {reinterpret_cast<const Element *>(packed), Operand::kDepth, kTileRows * Operand::kDepth};
  }

  static LILY_INLINE void pack_lhs(const lily_matrix &in, int64_t tokens, int64_t columns, float *out,
                                   int64_t block_pitch) {
    // A run of columns has whole vectors and whole blocks.
    constexpr int64_t kRun = 8 * kTileRows;
    static_assert(kRun % kLanes == 0);
    float run[kTokenTile * kRun];
    const int64_t steps = steps_of<Operand>(tokens);
    for (int64_t j = 0; j < columns; j += kRun) {
      ::lily::cpu::pack<Operand>(tokens, minimum(kRun, columns - j), submatrix(in, 0, j), 1.0f, run, kRun);
      for (int64_t i = 0; i < minimum(kRun, columns - j); i += kTileRows) {
        float *to = out + (j + i) / kTileRows * block_pitch;
        for (int64_t k = 0; k < steps; ++k) {
          __builtin_memcpy(to + k * kTileRows, run + k * kRun + i, kTileRows * sizeof(float));
        }
      }
    }
  }

  // ---- The product ----

  template <Columns, Order = Order::kOfProblem>
  static LILY_INLINE void multiply(const ProductShape &shape, const Lhs &lhs, const float *rhs, const Sums &sums,
                                   bool accumulate) {
    const int64_t vectors = shape.columns >= kPanel ? kPanelVectors : (shape.columns + kLanes - 1) / kLanes;
    const auto tile = tile_of<Operand>(minimum(kTileRows, shape.rows), vectors);
    tile(shape.steps, lhs, rhs, kPanel, sums.data, sums.pitch, accumulate);
  }

  // ---- Results ----

  static LILY_INLINE bool adds_in_place(const lily_matrix &out, int64_t columns) {
    return out.dtype == LILY_FLOAT32 && columns % kLanes == 0;
  }

  template <typename Body>
  static LILY_INLINE void with_activation(int32_t dtype, Body body) {
    with_element(dtype, body);
  }
  template <typename Body>
  static LILY_INLINE void with_type(int32_t dtype, Body body) {
    with_element(dtype, body);
  }

  static LILY_INLINE Row load_sums(const float *sums) { return load(sums); }
  template <typename E>
  static LILY_INLINE Row load_row(const E *row, int64_t count) {
    return load_up_to(row, count);
  }
  template <typename E>
  static LILY_INLINE void write_row(E *row, Vector factor, Row value, int64_t count, bool accumulate) {
    store_up_to(row, accumulate ? load_up_to(row, count) + factor * value : factor * value, count);
  }
  template <typename E>
  static LILY_INLINE void write_kept_row(E *row, const uint8_t *kept, int64_t j, Row value, int64_t count,
                                         bool accumulate) {
    ::lily::cpu::write_kept(row, lane_bits(kept, j), value, count, accumulate);
  }
  static LILY_INLINE void add_product(Row a, Row b, Row &sum) { sum += a * b; }
  static LILY_INLINE double sum_of(Row row) { return static_cast<double>(sum_lanes(row)); }

  static LILY_INLINE void write_transposed(int64_t rows, int64_t columns, const float *sums, float scale,
                                           const lily_matrix &out) {
    for (int64_t i = 0; i < rows; i += kPanel) {
      const int64_t count = minimum(kPanel, rows - i);
      float transposed[kPanel * kPanel];
      ::lily::cpu::pack_transposed<Floats>(count, columns,
                                           {const_cast<float *>(sums) + i * kPanel, kPanel, LILY_FLOAT32, 0}, scale,
                                           transposed, round_up(count, kLanes));
      write_panels(columns, count, transposed, 1.0f, submatrix(out, 0, i), out.accumulate != 0);
    }
  }
};

}  // namespace
}  // namespace lily::cpu
