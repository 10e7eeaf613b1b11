// The combined projector with the scaling, s C_g = s sum_e w_ge B_e. A task combines the panels that it needs in its
// own scratch and uses them there; C is never stored as a whole. The forward pass packs s C (panels of columns of
// d_out), 8 rows at a time in all panels of a task; the backward pass packs s C^T (panels of columns of r), one panel
// at a time. Below, C stands for s C. For LoRA, whose b is stored transposed, the two exchange roles.
//
//   stack.b   E r x d_out, pitched, any element type; d_out x r if `transposed`
//   out       [step of k][width]: k counts r for C, and d_out for C^T
//
// Reads each element of B of the panel once.
#pragma once

#include "cpu/pack.h"

namespace lily::cpu {
namespace {

// Combines a part of C, with kDepth rows per step. A row of out has `width` floats.
template <typename T>
void combine_rows(const ExpertStack &stack, CombinedPart part, float *out, int64_t width) {
  const int64_t pitch = stack.b.pitch, expert_pitch = stack.rank * pitch;
  const float *const weights = stack.weights + part.group * stack.experts;
  float scaled[kMaxExperts];
  for (int64_t e = 0; e < stack.experts; ++e) scaled[e] = stack.scaling * weights[e];
  with_element(stack.b.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *first_row = static_cast<const decltype(element) *>(stack.b.data) + part.row * pitch + part.column;
    for (int64_t i = 0; i < part.rows; i += T::kDepth) {
      const auto *first = first_row + i * pitch;
      const bool fills_step = i + T::kDepth <= part.rows;
      float *row_out = out + i / T::kDepth * width;
      for_vectors(part.columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        Vector sums[T::kDepth] = {};
        // The rows of a panel are too short for the hardware prefetcher. The row that is four steps ahead arrives in
        // time from a shared cache; one prefetch per cache line of 64 bytes is enough.
        const bool begins_line = sizeof(element) == 4 || j % 32 == 0;
        for (int64_t e = 0; e < stack.experts; ++e) {
          const auto *elements = first + e * expert_pitch + j;
#pragma GCC unroll 2
          for (int64_t k = 0; k < T::kDepth; ++k) {
            if (k == 0 || fills_step) sums[k] += scaled[e] * load_up_to(elements + k * pitch, count);
            if (begins_line) __builtin_prefetch(elements + (k + 4 * T::kDepth) * pitch);
          }
        }
        store(row_out + j, T::interleave(sums));
      });
    }
  });
}

// Packs the panels of the columns [column, column + columns) of C: [panel][step of r][width]. The width of the last
// panel is `last_width`.
void combine_panels(const ExpertStack &stack, int64_t group, int64_t column, int64_t columns, float *out,
                    int64_t last_width) {
  // A few rows in all panels before the next rows, because longer runs of B arrive faster.
  const int64_t rows = stack.transposed ? stack.rank : 8, panels = panel_count(columns);
  for (int64_t i = 0; i < stack.rank; i += rows) {
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t count = panel_columns(columns, p), width = p + 1 < panels ? kPanel : last_width;
      float *const panel = out + p * kPanel * steps_of<Operand>(stack.rank);
      if (stack.transposed) {
        pack_transposed<Operand>(count, stack.rank, submatrix(stack.b, column + p * kPanel, 0), stack.scaling, panel,
                                 width);
      } else {
        combine_rows<Operand>(stack, {group, i, minimum(rows, stack.rank - i), column + p * kPanel, count},
                              panel + i / Operand::kDepth * width, width);
      }
    }
  }
}

// Packs C^T for a part of C: [step of columns][width]. `scratch` holds kTransposeScratchFloats.
void combine_transposed_panel(const ExpertStack &stack, CombinedPart part, float *out, int64_t width, float *scratch) {
  if (stack.transposed) {
    pack<Operand>(part.columns, part.rows, submatrix(stack.b, part.column, part.row), stack.scaling, out, width);
    return;
  }
  // A large B comes from memory, from which long runs of few rows arrive faster.
  const bool is_large = stack.rank > kSmallRank;
  const int64_t height = is_large ? kLanes : kPanel, length = is_large ? kTransposedRun : kPanel;
  for (int64_t i = 0; i < part.rows; i += height) {
    const int64_t count = minimum(height, part.rows - i);
    for (int64_t j = 0; j < part.columns; j += length) {
      const int64_t run = minimum(length, part.columns - j);
      const lily_matrix combined = {scratch, round_up(run, kLanes), LILY_FLOAT32, 0};
      combine_rows<Floats>(stack, {part.group, part.row + i, count, part.column + j, run}, scratch, combined.pitch);
      pack_transposed<Operand>(count, run, combined, 1.0f, out + j / Operand::kDepth * width + i, width);
    }
  }
}

}  // namespace
}  // namespace lily::cpu
