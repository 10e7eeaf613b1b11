// The dy pass: computes q and D in one pass over dy. A task processes one split of d_out, in tiles of dy_tile_columns.
//
//   q_t   = s dy_t C_g^T        v_t = s dy_t B^T with token routing
//   D_g   = s lhs^T dy          lhs is hidden, or u_t = p_t (x) h_t with token routing
//   dw_ge = <B_e, D_g>
//   dB_e (+)= sum_g w_ge D_g    or deferred_db, which a fold adds up over several layers
//
//   dy                  M x d_out, pitched
//   lhs                 M x stack.rank, contiguous
//   q_partials          [split][q_rows][lhs_pitch], float32: the sum over the columns of the split
//   d_weights_partials  [split][G][E], double: the sum over the columns of the split
//   db                  E r x d_out, pitched; d_out x r for LoRA
//   deferred_db         [partials][r][d_out], contiguous, float32: one D_g per group, or one sum_g w_ge D_g per expert
//
// Scratch holds, for one tile of columns and one group, s C^T packed [panel of rank][step of columns][width], and D
// without the factor s packed [panel of columns][rank][width].
//
// A group without a kept token has q = 0 and D = 0; its dy and lhs are not read, because they may be NaN.
//
// dy is read once from memory; B is read once per group, and dB is read and written once per group.
#pragma once

#include "cpu/expert_stack.h"
#include "cpu/outer_product.h"

namespace lily::cpu {
namespace {

// Floats for the tokens of one outer product: a copy of the rows of dy (lhs_of_rows), and one of the columns of lhs
// (lhs_of_columns). 0 if the register tile reads them in place.
LILY_INLINE int64_t dy_scratch_floats(const BackwardPass &pass) {
  return pass.call->problem.activation_dtype == LILY_FLOAT32
             ? 0
             : pass.outer_product_tokens * round_up(pass.dy_tile_columns, kLanes);
}
LILY_INLINE int64_t lhs_scratch_floats(const BackwardPass &pass) {
  if (pass.lhs.dtype == LILY_FLOAT32) return 0;
  return steps_of<Operand>(pass.outer_product_tokens) * pass.lhs_pitch;
}

LILY_INLINE int64_t backward_dy_scratch(const BackwardPass &pass) {
  return steps_of<Operand>(pass.dy_tile_columns) * pass.lhs_pitch +
         pass.stack.rank * round_up(pass.dy_tile_columns, kLanes) + pass.outer_product_tokens * kPanel +
         kTransposeScratchFloats + dy_scratch_floats(pass) + lhs_scratch_floats(pass);
}

// <B_e, D> over the columns [begin, end), without s: float32 sums per lane and panel, which are added in double.
LILY_INLINE double dot_with_expert(const ExpertStack &stack, int64_t expert, int64_t begin, int64_t end,
                                   const float *d_combined) {
  double total = 0.0;
  for (int64_t p = 0; p < panel_count(end - begin); ++p) {
    const int64_t columns = panel_columns(end - begin, p);
    const int64_t width = round_up(columns, kLanes);
    const float *d = d_combined + p * kPanel * stack.rank;
    const lily_matrix b = submatrix(stack.b, expert * stack.rank, begin + p * kPanel);
    Vector products[kPanelVectors] = {};
    with_element(b.dtype, [&](auto element) __attribute__((always_inline)) {
      for (int64_t i = 0; i < stack.rank; ++i) {
        const auto *row = static_cast<const decltype(element) *>(b.data) + i * b.pitch;
        for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
          products[j / kLanes] += load(d + i * width + j) * load_up_to(row + j, count);
        });
      }
    });
    Vector sum = products[0];
    for (int64_t j = 1; j < kPanelVectors; ++j) sum += products[j];
    total += static_cast<double>(sum_lanes(sum));
  }
  return total;
}

// Everything that depends on D_g: adds to d_weights_partials and writes dB. `d_combined` holds the columns [begin, end)
// of D_g; `transpose_scratch` holds kTransposeScratchFloats.
LILY_INLINE void write_d_weights_and_db(const BackwardPass &pass, int64_t split, int64_t group, int64_t begin,
                                        int64_t end, const float *d_combined, float *transpose_scratch) {
  const lily_problem &problem = pass.call->problem;
  const ExpertStack &stack = pass.stack;
  const float *weights = stack.weights + group * stack.experts;
  if (pass.needs_d_weights) {
    double *d_weights = pass.d_weights_partials + (split * pass.groups.count + group) * stack.experts;
    for (int64_t e = 0; e < stack.experts; ++e) {
      d_weights[e] += stack.scaling * dot_with_expert(stack, e, begin, end, d_combined);
    }
  }
  if (!pass.needs_db) return;
  const lily_matrix &db = pass.call->db;
  if (stack.transposed) {
    for (int64_t p = 0; p < panel_count(end - begin); ++p) {
      const int64_t columns = panel_columns(end - begin, p);
      for (int64_t i = 0; i < stack.rank; i += kPanel) {
        const int64_t rows = minimum(kPanel, stack.rank - i), width = round_up(columns, kLanes);
        const lily_matrix square = {const_cast<float *>(d_combined) + p * kPanel * stack.rank + i * width, width,
                                    LILY_FLOAT32, 0};
        pack_transposed<Floats>(rows, columns, square, stack.scaling, transpose_scratch, round_up(rows, kLanes));
        write_panels(columns, rows, transpose_scratch, 1.0f, submatrix(db, begin + p * kPanel, i), db.accumulate != 0);
      }
    }
    return;
  }
  const bool deferred = pass.call->deferred_db != nullptr;
  const bool summed = pass.db_sums.data != nullptr;
  const lily_matrix target = deferred ? lily_matrix{pass.call->deferred_db, problem.d_out, LILY_FLOAT32, 0}
                             : summed ? pass.db_sums
                                      : db;
  if (deferred && !pass.deferred_is_weighted) {
    write_panels(stack.rank, end - begin, d_combined, stack.scaling, submatrix(target, group * stack.rank, begin),
                 false);
    return;
  }
  // Only the first group may overwrite the old contents; later groups add to it.
  const bool accumulate = group > 0 || target.accumulate != 0;
  for (int64_t e = 0; e < stack.experts; ++e) {
    write_panels(stack.rank, end - begin, d_combined, stack.scaling * weights[e],
                 submatrix(target, e * stack.rank, begin), accumulate);
  }
  if (summed && group == pass.groups.count - 1) {
    write_rows(stack.experts * stack.rank, end - begin, static_cast<float *>(target.data) + begin, target.pitch, 1.0f,
               submatrix(db, 0, begin), db.accumulate != 0);
  }
}

void dy_pass(const BackwardPass &pass, int64_t split, float *scratch) {
  const ExpertStack &stack = pass.stack;
  const lily_matrix &dy = pass.call->dy;
  const bool needs_d_combined = pass.needs_db || pass.needs_d_weights;
  float *combined = scratch;  // s C^T
  float *d_combined = combined + steps_of<Operand>(pass.dy_tile_columns) * pass.lhs_pitch;
  float *rhs_scratch = d_combined + stack.rank * round_up(pass.dy_tile_columns, kLanes);
  float *transpose_scratch = rhs_scratch + pass.outer_product_tokens * kPanel;
  float *dy_scratch = transpose_scratch + kTransposeScratchFloats, *lhs_scratch = dy_scratch + dy_scratch_floats(pass);
  float *q = pass.q_partials + split * pass.q_rows * pass.lhs_pitch;
  if (pass.needs_d_weights) {
    double *d_weights = pass.d_weights_partials + split * pass.groups.count * stack.experts;
    for (int64_t i = 0; i < pass.groups.count * stack.experts; ++i) d_weights[i] = 0.0;
  }
  const int64_t split_begin = pass.dy_splits.begin(split), split_end = pass.dy_splits.end(split);
  for (int64_t begin = split_begin; begin < split_end; begin += pass.dy_tile_columns) {
    const int64_t end = minimum(split_end, begin + pass.dy_tile_columns);
    const int64_t columns = end - begin, steps = steps_of<Operand>(columns);
    for (int64_t group = 0; group < pass.groups.count; ++group) {
      const int64_t group_begin = pass.groups.begin(group), group_end = pass.groups.end(group);
      const bool has_gradient =
          pass.has_gradient == nullptr || group_begin == group_end || pass.has_gradient[group_begin] != 0;
      if (pass.needs_d_hidden && !has_gradient) {
        clear(q + group_begin * pass.lhs_pitch, (group_end - group_begin) * pass.lhs_pitch);
      } else if (pass.needs_d_hidden && group_begin < group_end) {
        for (int64_t p = 0; p < panel_count(stack.rank); ++p) {
          const int64_t rows = panel_columns(stack.rank, p);
          combine_transposed_panel(stack, stack.weights + group * stack.experts, p * kPanel, rows, begin, columns,
                                   combined + p * kPanel * steps, round_up(rows, kLanes), transpose_scratch);
        }
      }
      if (needs_d_combined) clear(d_combined, stack.rank * round_up(columns, kLanes));
      for (int64_t t = group_begin; has_gradient && t < group_end; t += pass.outer_product_tokens) {
        const int64_t tokens = minimum(pass.outer_product_tokens, group_end - t);
        const lily_matrix dy_tile = submatrix(dy, t, begin);
        if (pass.needs_d_hidden) {
          const LeftOperand<Operand> lhs = lhs_of_rows<Operand>(dy_tile, tokens, columns, dy_scratch);
          for (int64_t p = 0; p < panel_count(stack.rank); ++p) {
            const int64_t width = round_up(panel_columns(stack.rank, p), kLanes);
            multiply_rows(tokens, width / kLanes, steps, lhs, combined + p * kPanel * steps, width,
                          q + t * pass.lhs_pitch + p * kPanel, pass.lhs_pitch, begin > split_begin);
          }
        }
        if (needs_d_combined) {
          const LeftOperand<Operand> lhs =
              lhs_of_columns<Operand>(submatrix(pass.lhs, t, 0), tokens, stack.rank, lhs_scratch);
          add_outer_product(stack.rank, tokens, lhs, dy_tile, columns, d_combined, rhs_scratch);
        }
      }
      if (needs_d_combined) write_d_weights_and_db(pass, split, group, begin, end, d_combined, transpose_scratch);
    }
  }
}

}  // namespace
}  // namespace lily::cpu
