// The x pass: computes dx and dA in one pass over x and dx. A task processes one tile of d_in for all tokens; with many
// threads, for one piece of the tokens, and add_da_partials completes dA.
//
//   dx_t (+)= dh_t A
//   dA   (+)= dh^T x
//
//   d_hidden_lhs  M x rank_pitch, in the element type of the large products
//   a, da         r x d_in, pitched; the columns of the tile of A are packed in scratch, [panel][step of r][width]
//   x, dx         M x d_in, pitched
//   da_partials   [piece][panel of d_in][r][width], float32
//
// x is read once; dx is written once, and read once if it is accumulated. The sums of dA stay packed until all tokens,
// or those of a piece, are added.
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
  // A; dA, and that of a piece after the first.
  const int64_t rows =
      steps_of<Operand>(problem.rank) + (pass.x.pieces.count(problem.tokens) > 1 ? 2 : 1) * problem.rank;
  return rows * round_up(pass.x.tiles.width, kLanes) + d_hidden_scratch_floats(pass) +
         pass.outer_product_tokens * kPanel;
}

// dx of the tokens [from, to), if it is needed, and sums = dh^T x over these tokens, unless `sums` is null.
LILY_INLINE void x_tokens(const BackwardPass &pass, int64_t begin, int64_t columns, int64_t from, int64_t to,
                          const float *a_packed, float *sums, float *scratch) {
  const int64_t rank = pass.call->problem.rank, steps = steps_of<Operand>(rank);
  const lily_matrix &x = pass.call->x, &dx = pass.call->dx;
  const bool prefetches = bytes_of(pass.call->problem.tokens, pass.call->problem.d_in, dx) > kPrefetchedResult;
  float *rhs_scratch = scratch, *d_hidden_scratch = rhs_scratch + pass.outer_product_tokens * kPanel;
  if (sums != nullptr) clear(sums, rank * round_up(columns, kLanes));
  for (int64_t t = from; t < to; t += pass.outer_product_tokens) {
    const int64_t step_end = minimum(to, t + pass.outer_product_tokens);
    if (dx.data != nullptr) {
      for (int64_t row = t; row < step_end; row += kTileRows) {
        const int64_t rows = minimum(kTileRows, step_end - row);
        // The padding of d_hidden fills up the last step, so that the rows are read in place.
        const LeftOperand<Operand> lhs =
            lhs_of_rows<Operand>(submatrix(pass.d_hidden_lhs, row, 0), rows, steps * Operand::kDepth, nullptr);
        for (int64_t p = 0; p < panel_count(columns); ++p) {
          const int64_t panel = panel_columns(columns, p);
          if (prefetches) prefetch_ahead(to - row, columns, p, submatrix(dx, row, begin));
          multiply_into(rows, panel, steps, lhs, a_packed + p * kPanel * steps, submatrix(dx, row, begin + p * kPanel));
          if (sums != nullptr) prefetch(rows, panel, submatrix(x, row, begin + p * kPanel));
        }
      }
    }
    if (sums != nullptr) {
      const LeftOperand<Operand> lhs =
          lhs_of_columns<Operand>(submatrix(pass.d_hidden_lhs, t, 0), step_end - t, rank, d_hidden_scratch);
      add_outer_product(rank, step_end - t, lhs, submatrix(x, t, begin), columns, sums, rhs_scratch,
                        pass.has_gradient == nullptr ? nullptr : pass.has_gradient + t);
    }
  }
}

void x_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &a = pass.call->a, &da = pass.call->da;
  const int64_t rank = problem.rank, steps = steps_of<Operand>(rank);
  const int64_t tile = task % pass.x.tiles.count, piece = task / pass.x.tiles.count;
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  const int64_t sum_floats = rank * round_up(columns, kLanes), length = pass.x.pieces.length(problem.tokens);
  float *a_packed = scratch, *sums = a_packed + steps * round_up(columns, kLanes), *piece_sums = sums + sum_floats;
  float *rest = pass.x.pieces.count(problem.tokens) > 1 ? piece_sums + sum_floats : piece_sums;
  const bool needs_da = da.data != nullptr;

  if (pass.call->dx.data != nullptr) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      pack<Operand>(rank, panel_columns(columns, p), submatrix(a, 0, begin + p * kPanel), 1.0f,
                    a_packed + p * kPanel * steps, round_up(panel_columns(columns, p), kLanes));
    }
  }
  if (pass.x.da_partials != nullptr) {
    float *const partial = pass.x.da_partials + piece * pass.x.da_partial_floats + begin * rank;
    x_tokens(pass, begin, columns, piece * length, minimum(problem.tokens, (piece + 1) * length), a_packed,
             needs_da ? partial : nullptr, rest);
    return;
  }
  int64_t t = 0;
  do {
    float *const piece_of_da = t == 0 ? sums : piece_sums;
    x_tokens(pass, begin, columns, t, minimum(problem.tokens, t + length), a_packed, needs_da ? piece_of_da : nullptr,
             rest);
    if (needs_da && t > 0) add_floats(sum_floats, piece_of_da, sums);
    t += length;
  } while (t < problem.tokens);
  if (needs_da) write_panels(rank, columns, sums, 1.0f, submatrix(da, 0, begin), da.accumulate != 0);
}

// Adds the pieces of dA for a tile of columns.
void add_da_partials(const BackwardPass &pass, int64_t tile, float *scratch) {
  const lily_matrix &da = pass.call->da;
  const int64_t rank = pass.call->problem.rank;
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  add_partials(rank * round_up(columns, kLanes), pass.x.da_partials + begin * rank, pass.x.da_partial_floats,
               pass.x.pieces.count(pass.call->problem.tokens), scratch);
  write_panels(rank, columns, scratch, 1.0f, submatrix(da, 0, begin), da.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
