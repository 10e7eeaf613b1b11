// One sweep over x and dx, a slab of d_in at a time: dA and dx together.
//
//   dx_t (+)= dh_t A      A's slab is packed [panel][rank][width] into scratch
//   dA   (+)= dh^T x      summed packed in scratch, written when the slab is done
//
// x is read once, dx is written (and read) once. And dR (+)= dl^T h, a slab of r at a time.
#pragma once

#include "cpu/forward_expand.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t backward_x_scratch(const BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const int64_t slab = 2 * problem.rank * round_up(pass.x_slabs.width, kLanes);
  const int64_t router = problem.experts * round_up(pass.router_slabs.width, kLanes);
  return maximum(slab, router) + pass.token_step * kPanel;
}

// The lines of x that the outer product is about to read, a tile's worth.
LILY_INLINE void prefetch_tile(const float *rows, int64_t pitch, int64_t count, int64_t columns) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < columns; j += 16) __builtin_prefetch(rows + i * pitch + j);
  }
}

void x_pass(const BackwardPass &pass, int64_t slab, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &x = pass.call->x, &a = pass.call->a, &dx = pass.call->dx, &da = pass.call->da;
  const int64_t rank = problem.rank;
  const int64_t begin = pass.x_slabs.begin(slab), columns = pass.x_slabs.end(slab) - begin;
  const int64_t padded = round_up(columns, kLanes);
  float *panels = scratch, *sums = panels + rank * padded, *edge = sums + rank * padded;
  const float *x_columns = static_cast<const float *>(x.data) + begin;
  float *dx_columns = dx.data == nullptr ? nullptr : static_cast<float *>(dx.data) + begin;

  if (dx_columns != nullptr) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      const int64_t width = round_up(panel_columns(columns, p), kLanes);
      copy_padded(rank, panel_columns(columns, p), static_cast<const float *>(a.data) + begin + p * kPanel, a.pitch,
                  1.0f, panels + p * kPanel * rank, width);
    }
  }
  if (da.data != nullptr) clear(sums, rank * padded);

  for (int64_t t = 0; t < problem.tokens; t += pass.token_step) {
    const int64_t step_end = minimum(problem.tokens, t + pass.token_step);
    if (dx_columns != nullptr) {
      for (int64_t row = t; row < step_end; row += kTileRows) {
        const int64_t rows = minimum(kTileRows, step_end - row);
        const Left left = {pass.dh + row * pass.rank_pitch, pass.rank_pitch, 1};
        for (int64_t p = 0; p < panel_count(columns); ++p) {
          const int64_t panel = panel_columns(columns, p);
          multiply_into(rows, panel, rank, left, panels + p * kPanel * rank, dx_columns + row * dx.pitch + p * kPanel,
                        dx.pitch, dx.accumulate != 0);
          if (da.data != nullptr) prefetch_tile(x_columns + row * x.pitch + p * kPanel, x.pitch, rows, panel);
        }
      }
    }
    if (da.data != nullptr) {
      add_outer_product(rank, step_end - t, pass.dh + t * pass.rank_pitch, pass.rank_pitch, x_columns + t * x.pitch,
                        x.pitch, columns, sums, edge);
    }
  }
  if (da.data != nullptr) {
    write_panels(rank, columns, sums, 1.0f, static_cast<float *>(da.data) + begin, da.pitch, da.accumulate != 0);
  }
}

void router_gradient(const BackwardPass &pass, int64_t slab, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &out = pass.call->d_router;
  const int64_t begin = pass.router_slabs.begin(slab), columns = pass.router_slabs.end(slab) - begin;
  float *sums = scratch, *edge = sums + problem.experts * round_up(columns, kLanes);
  const float *hidden = static_cast<const float *>(pass.call->hidden) + begin;
  clear(sums, problem.experts * round_up(columns, kLanes));
  for (int64_t t = 0; t < problem.tokens; t += pass.token_step) {
    add_outer_product(problem.experts, minimum(pass.token_step, problem.tokens - t), pass.dl + t * problem.experts,
                      problem.experts, hidden + t * problem.rank, problem.rank, columns, sums, edge);
  }
  write_panels(problem.experts, columns, sums, 1.0f, static_cast<float *>(out.data) + begin, out.pitch,
               out.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
