// One sweep over x and dx, a slab of d_in at a time: dA and dx together.
//
//   dx_t (+)= dh_t A      A's slab is packed [panel][step of rank][width] into scratch
//   dA   (+)= dh^T x      summed packed in scratch, written when the slab is done
//
// x is read once, dx is written (and read) once. And dR (+)= dl^T h, a slab of r at a time.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

// The columns of dh, where a tile cannot take them in place.
LILY_INLINE int64_t dh_block_floats(const BackwardPass &pass) {
  return Operand::kDepth == 1 ? 0 : steps_of<Operand>(pass.token_step) * pass.rank_pitch;
}

LILY_INLINE int64_t backward_x_scratch(const BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rows = steps_of<Operand>(problem.rank) + problem.rank;
  const int64_t slab = rows * round_up(pass.x_slabs.width, kLanes) + dh_block_floats(pass);
  const int64_t router = problem.experts * round_up(pass.router_slabs.width, kLanes);
  return maximum(slab, router) + pass.token_step * kPanel;
}

// The lines of x that the outer product is about to read, a tile's worth.
LILY_INLINE void prefetch_tile(const lily_matrix &x, int64_t rows, int64_t columns) {
  const int64_t row_bytes = columns * (x.dtype == LILY_FLOAT32 ? 4 : 2);
  for (int64_t i = 0; i < rows; ++i) {
    const char *row = static_cast<const char *>(from(x, i, 0).data);
    for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(row + byte);
  }
}

void x_pass(const BackwardPass &pass, int64_t slab, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &x = pass.call->x, &a = pass.call->a, &dx = pass.call->dx, &da = pass.call->da;
  const int64_t rank = problem.rank, steps = steps_of<Operand>(rank);
  const int64_t begin = pass.x_slabs.begin(slab), columns = pass.x_slabs.end(slab) - begin;
  const int64_t padded = round_up(columns, kLanes);
  float *panels = scratch, *sums = panels + steps * padded, *edge = sums + rank * padded;
  float *dh_block = edge + pass.token_step * kPanel;
  const bool wants_dx = dx.data != nullptr, wants_da = da.data != nullptr;

  if (wants_dx) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      copy_padded<Operand>(rank, panel_columns(columns, p), from(a, 0, begin + p * kPanel), 1.0f,
                           panels + p * kPanel * steps, round_up(panel_columns(columns, p), kLanes));
    }
  }
  if (wants_da) clear(sums, rank * padded);

  for (int64_t t = 0; t < problem.tokens; t += pass.token_step) {
    const int64_t step_end = minimum(problem.tokens, t + pass.token_step);
    if (wants_dx) {
      for (int64_t row = t; row < step_end; row += kTileRows) {
        const int64_t rows = minimum(kTileRows, step_end - row);
        // The padding of dh fills its last step.
        const Left<Operand> left =
            left_rows<Operand>(from(pass.dh_left, row, 0), rows, steps * Operand::kDepth, nullptr);
        for (int64_t p = 0; p < panel_count(columns); ++p) {
          const int64_t panel = panel_columns(columns, p);
          multiply_into(rows, panel, steps, left, panels + p * kPanel * steps, from(dx, row, begin + p * kPanel));
          if (wants_da) prefetch_tile(from(x, row, begin + p * kPanel), rows, panel);
        }
      }
    }
    if (wants_da) {
      const Left<Operand> left = left_columns<Operand>(from(pass.dh_left, t, 0), step_end - t, rank, dh_block);
      add_outer_product(rank, step_end - t, left, from(x, t, begin), columns, sums, edge);
    }
  }
  if (wants_da) write_panels(rank, columns, sums, 1.0f, from(da, 0, begin), da.accumulate != 0);
}

void router_gradient(const BackwardPass &pass, int64_t slab, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &out = pass.call->d_router;
  const int64_t begin = pass.router_slabs.begin(slab), columns = pass.router_slabs.end(slab) - begin;
  float *sums = scratch, *edge = sums + problem.experts * round_up(columns, kLanes);
  clear(sums, problem.experts * round_up(columns, kLanes));
  for (int64_t t = 0; t < problem.tokens; t += pass.token_step) {
    const Left<Floats> left = {pass.dl + t * problem.experts, 1, problem.experts};
    add_outer_product(problem.experts, minimum(pass.token_step, problem.tokens - t), left, from(pass.hidden, t, begin),
                      columns, sums, edge);
  }
  write_panels(problem.experts, columns, sums, 1.0f, from(out, 0, begin), out.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
