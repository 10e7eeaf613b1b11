// One sweep over dy, a slab of d_out at a time: q and D together.
//
//   q_t  = s dy_t C_g^T            q_partial[slab][M][left_pitch], the sum over the slab's columns
//   D_g  = s left^T dy             rank x d_out, in scratch; left is h, or u = p (x) h with token routing
//   dw_ge = <B_e, D_g>             weight_gradient[slab][G][E], the slab's share, in double
//   dB_e (+)= w_ge D_g             or deferred_db, for a fold over several layers
//
// Scratch holds, for dy_width columns: C^T packed [panel of rank][step of columns][width], D packed
// [panel][rank][width]. dy is read once; B once per group, dB read and written once per group.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

// Blocks for a step's tokens where a tile cannot take dy's rows (see left_rows), or left's columns, in place.
LILY_INLINE int64_t dy_block_floats(const BackwardPass &pass) {
  return pass.call->problem.activation_dtype == LILY_FLOAT32 ? 0 : pass.token_step * round_up(pass.dy_width, kLanes);
}
LILY_INLINE int64_t left_block_floats(const BackwardPass &pass) {
  if (pass.left.dtype == LILY_FLOAT32) return 0;
  return steps_of<Operand>(pass.token_step) * pass.left_pitch;
}

LILY_INLINE int64_t backward_dy_scratch(const BackwardPass &pass) {
  return steps_of<Operand>(pass.dy_width) * pass.left_pitch + pass.mixture.rank * round_up(pass.dy_width, kLanes) +
         pass.token_step * kPanel + kBlockFloats + dy_block_floats(pass) + left_block_floats(pass);
}

// u_t = p_t (x) h_t of a block of tokens: the left operand of token routing.
void mix_hidden(const BackwardPass &pass, int64_t block) {
  const lily_problem &problem = pass.call->problem;
  const int64_t end = minimum(problem.tokens, (block + 1) * kTokenBlock);
  for (int64_t t = block * kTokenBlock; t < end; ++t) {
    write_mixed_hidden(problem, pass.hidden, t, pass.call->probabilities + t * problem.experts, pass.mixed_hidden);
  }
}

// <B_e, D> over the columns [begin, end): a float chain per lane and panel, then double.
LILY_INLINE double dot_with_expert(const Mixture &mixture, int64_t expert, int64_t begin, int64_t end,
                                   const float *sums) {
  double total = 0.0;
  for (int64_t p = 0; p < panel_count(end - begin); ++p) {
    const int64_t columns = panel_columns(end - begin, p);
    const int64_t width = round_up(columns, kLanes);
    const float *d = sums + p * kPanel * mixture.rank;
    const lily_matrix b = from(mixture.b, expert * mixture.rank, begin + p * kPanel);
    Vector products[kPanelVectors] = {};
    with_element(b.dtype, [&](auto element) __attribute__((always_inline)) {
      for (int64_t i = 0; i < mixture.rank; ++i) {
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

// Everything that needs D_g, whose columns [begin, end) are in `sums`; `block` holds kBlockFloats.
LILY_INLINE void consume_outer_product(const BackwardPass &pass, int64_t slab, int64_t group, int64_t begin,
                                       int64_t end, const float *sums, float *block) {
  const lily_problem &problem = pass.call->problem;
  const Mixture &mixture = pass.mixture;
  const float *weights = mixture.weights + group * mixture.experts;
  if (pass.wants_weight_gradient) {
    double *gradient = pass.weight_gradient + (slab * pass.groups.count + group) * mixture.experts;
    for (int64_t e = 0; e < mixture.experts; ++e) {
      gradient[e] += mixture.scaling * dot_with_expert(mixture, e, begin, end, sums);
    }
  }
  if (!pass.wants_db) return;
  const lily_matrix &db = pass.call->db;
  if (mixture.transposed) {
    for (int64_t p = 0; p < panel_count(end - begin); ++p) {
      const int64_t columns = panel_columns(end - begin, p);
      for (int64_t i = 0; i < mixture.rank; i += kPanel) {
        const int64_t rows = minimum(kPanel, mixture.rank - i), width = round_up(columns, kLanes);
        const lily_matrix part = {const_cast<float *>(sums) + p * kPanel * mixture.rank + i * width, width,
                                  LILY_FLOAT32, 0};
        transpose<Floats>(rows, columns, part, mixture.scaling, block, round_up(rows, kLanes));
        write_panels(columns, rows, block, 1.0f, from(db, begin + p * kPanel, i), db.accumulate != 0);
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
    write_panels(mixture.rank, end - begin, sums, mixture.scaling, from(target, group * mixture.rank, begin), false);
    return;
  }
  // The first group decides whether old contents count; later ones add to it.
  const bool accumulate = group > 0 || target.accumulate != 0;
  for (int64_t e = 0; e < mixture.experts; ++e) {
    write_panels(mixture.rank, end - begin, sums, mixture.scaling * weights[e], from(target, e * mixture.rank, begin),
                 accumulate);
  }
  if (summed && group == pass.groups.count - 1) {
    write_rows(mixture.experts * mixture.rank, end - begin, static_cast<float *>(target.data) + begin, target.pitch,
               1.0f, from(db, 0, begin), db.accumulate != 0);
  }
}

void dy_pass(const BackwardPass &pass, int64_t slab, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const Mixture &mixture = pass.mixture;
  const lily_matrix &dy = pass.call->dy;
  const bool wants_outer_product = pass.wants_db || pass.wants_weight_gradient;
  float *transposed = scratch;
  float *sums = transposed + steps_of<Operand>(pass.dy_width) * pass.left_pitch;
  float *edge = sums + mixture.rank * round_up(pass.dy_width, kLanes);
  float *block = edge + pass.token_step * kPanel;
  float *dy_block = block + kBlockFloats, *left_block = dy_block + dy_block_floats(pass);
  float *q = pass.q_partial + slab * problem.tokens * pass.left_pitch;
  if (pass.wants_weight_gradient) {
    double *gradient = pass.weight_gradient + slab * pass.groups.count * mixture.experts;
    for (int64_t i = 0; i < pass.groups.count * mixture.experts; ++i) gradient[i] = 0.0;
  }
  const int64_t slab_begin = pass.dy_slabs.begin(slab), slab_end = pass.dy_slabs.end(slab);
  for (int64_t begin = slab_begin; begin < slab_end; begin += pass.dy_width) {
    const int64_t end = minimum(slab_end, begin + pass.dy_width);
    const int64_t columns = end - begin, steps = steps_of<Operand>(columns);
    for (int64_t group = 0; group < pass.groups.count; ++group) {
      const int64_t group_begin = pass.groups.begin(group), group_end = pass.groups.end(group);
      if (pass.wants_hidden_gradient && group_begin < group_end) {
        for (int64_t p = 0; p < panel_count(mixture.rank); ++p) {
          const int64_t rows = panel_columns(mixture.rank, p);
          mix_transposed_panel(mixture, mixture.weights + group * mixture.experts, p * kPanel, rows, begin, columns,
                               transposed + p * kPanel * steps, round_up(rows, kLanes), block);
        }
      }
      if (wants_outer_product) clear(sums, mixture.rank * round_up(columns, kLanes));
      for (int64_t t = group_begin; t < group_end; t += pass.token_step) {
        const int64_t tokens = minimum(pass.token_step, group_end - t);
        const lily_matrix rows = from(dy, t, begin);
        if (pass.wants_hidden_gradient) {
          const Left<Operand> left = left_rows<Operand>(rows, tokens, columns, dy_block);
          for (int64_t p = 0; p < panel_count(mixture.rank); ++p) {
            const int64_t width = round_up(panel_columns(mixture.rank, p), kLanes);
            multiply_rows(tokens, width / kLanes, steps, left, transposed + p * kPanel * steps, width,
                          q + t * pass.left_pitch + p * kPanel, pass.left_pitch, begin > slab_begin);
          }
        }
        if (wants_outer_product) {
          const Left<Operand> left = left_columns<Operand>(from(pass.left, t, 0), tokens, mixture.rank, left_block);
          add_outer_product(mixture.rank, tokens, left, rows, columns, sums, edge);
        }
      }
      if (wants_outer_product) consume_outer_product(pass, slab, group, begin, end, sums, block);
    }
  }
}

}  // namespace
}  // namespace lily::cpu
