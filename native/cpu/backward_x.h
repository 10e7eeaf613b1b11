// The x pass: computes dx and dA in one pass over x and dx. A task processes one tile of d_in for all tokens.
//
//   dx_t (+)= dh_t A
//   dA   (+)= dh^T x
//
//   d_hidden_lhs  M x rank_pitch, in the element type of the large products
//   a, da         r x d_in, pitched; the columns of the tile of A are packed in scratch, [panel][step of r][width]
//   x, dx         M x d_in, pitched
//
// x is read once; dx is written once, and read once if it is accumulated. The sums of dA stay packed in scratch until
// all tokens are added.
#pragma once

#include "cpu/outer_product.h"

namespace lily::cpu {
namespace {

// Floats for the columns of d_hidden_lhs (lhs_of_columns). 0 if the register tile reads them in place.
LILY_INLINE int64_t d_hidden_scratch_floats(const BackwardPass &pass) {
  return Operand::kDepth == 1 ? 0 : steps_of<Operand>(pass.outer_product_tokens) * pass.rank_pitch;
}

LILY_INLINE int64_t backward_x_scratch(const BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  const int64_t rows = steps_of<Operand>(problem.rank) + problem.rank;
  return rows * round_up(pass.x_tiles.width, kLanes) + d_hidden_scratch_floats(pass) +
         pass.outer_product_tokens * kPanel;
}

// Prefetches the rows of x that belong to a register tile of dx, by cache lines of 64 bytes: the outer product reads
// them next.
LILY_INLINE void prefetch_tile(const lily_matrix &x, int64_t rows, int64_t columns) {
  const int64_t row_bytes = columns * (x.dtype == LILY_FLOAT32 ? 4 : 2);
  for (int64_t i = 0; i < rows; ++i) {
    const char *row = static_cast<const char *>(submatrix(x, i, 0).data);
    for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(row + byte);
  }
}

void x_pass(const BackwardPass &pass, int64_t tile, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &x = pass.call->x, &a = pass.call->a, &dx = pass.call->dx, &da = pass.call->da;
  const int64_t rank = problem.rank, steps = steps_of<Operand>(rank);
  const int64_t begin = pass.x_tiles.begin(tile), columns = pass.x_tiles.end(tile) - begin;
  const int64_t padded = round_up(columns, kLanes);
  float *a_packed = scratch, *sums = a_packed + steps * padded, *rhs_scratch = sums + rank * padded;
  float *d_hidden_scratch = rhs_scratch + pass.outer_product_tokens * kPanel;
  const bool needs_dx = dx.data != nullptr, needs_da = da.data != nullptr;

  if (needs_dx) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      pack<Operand>(rank, panel_columns(columns, p), submatrix(a, 0, begin + p * kPanel), 1.0f,
                    a_packed + p * kPanel * steps, round_up(panel_columns(columns, p), kLanes));
    }
  }
  if (needs_da) clear(sums, rank * padded);

  for (int64_t t = 0; t < problem.tokens; t += pass.outer_product_tokens) {
    const int64_t step_end = minimum(problem.tokens, t + pass.outer_product_tokens);
    if (needs_dx) {
      for (int64_t row = t; row < step_end; row += kTileRows) {
        const int64_t rows = minimum(kTileRows, step_end - row);
        // The padding of d_hidden fills up the last step, so that the rows are read in place.
        const LeftOperand<Operand> lhs =
            lhs_of_rows<Operand>(submatrix(pass.d_hidden_lhs, row, 0), rows, steps * Operand::kDepth, nullptr);
        for (int64_t p = 0; p < panel_count(columns); ++p) {
          const int64_t panel = panel_columns(columns, p);
          multiply_into(rows, panel, steps, lhs, a_packed + p * kPanel * steps, submatrix(dx, row, begin + p * kPanel));
          if (needs_da) prefetch_tile(submatrix(x, row, begin + p * kPanel), rows, panel);
        }
      }
    }
    if (needs_da) {
      const LeftOperand<Operand> lhs =
          lhs_of_columns<Operand>(submatrix(pass.d_hidden_lhs, t, 0), step_end - t, rank, d_hidden_scratch);
      add_outer_product(rank, step_end - t, lhs, submatrix(x, t, begin), columns, sums, rhs_scratch,
                        pass.has_gradient == nullptr ? nullptr : pass.has_gradient + t);
    }
  }
  if (needs_da) write_panels(rank, columns, sums, 1.0f, submatrix(da, 0, begin), da.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
