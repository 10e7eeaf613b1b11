// The x pass: computes dx and dA in one pass over x and dx. A task processes one tile of d_in for all tokens; with many
// threads, for one piece of the tokens, and add_da_partials completes dA.
//
//   dx_t (+)= dh_t A
//   dA   (+)= dh^T x
//
// With dropout, both use one mask of the elements of a step: it selects the elements of x as they are packed, and those
// of dx on the way from a buffer.
//
//   d_hidden_lhs  M x rank_pitch, in the element type of the large products
//   a, da         r x d_in, pitched; the columns of the tile of A are packed in scratch, [panel][step of r][width]
//   x, dx         M x d_in, pitched
//   da_partials   [piece][panel of d_in][r][width], float32
//
// x is read once; dx is written once, and read once if it is accumulated. The sums of dA stay packed until all tokens,
// or the tokens of a piece, are added.
#pragma once

#include "cpu/outer_product.h"
#include "cpu/scratch.h"

namespace lily::cpu {
namespace {

// Floats for the columns of d_hidden_lhs (lhs_of_columns). 0 if the register tile reads them in place.
LILY_INLINE int64_t d_hidden_scratch_floats(const BackwardPass &pass) {
  return Operand::kDepth == 1 ? 0 : steps_of<Operand>(pass.outer_product_tokens) * pass.rank_pitch;
}

// The scratch of a task.
struct XScratch {
  float *a;         // the columns of A
  float *da;        // dA
  float *da_piece;  // dA of a piece after the first
  float *rhs, *d_hidden;
  float *mask;
};
LILY_INLINE XScratch take_x_scratch(const BackwardPass &pass, Scratch &scratch) {
  const lily_problem &problem = pass.call->problem;
  const int64_t width = round_up(pass.x.tiles.width, kLanes);
  XScratch parts = {};
  parts.a = scratch.take(steps_of<Operand>(problem.rank) * width);
  parts.da = scratch.take(problem.rank * width);
  parts.da_piece = scratch.take(pass.x.pieces.count(problem.tokens) > 1 ? problem.rank * width : 0);
  parts.rhs = scratch.take(pass.outer_product_tokens * kPanel);
  parts.d_hidden = scratch.take(d_hidden_scratch_floats(pass));
  parts.mask = scratch.take(problem.dropout == 0 ? 0 : mask_floats(pass.outer_product_tokens, pass.x.tiles.width));
  return parts;
}
LILY_INLINE int64_t backward_x_scratch(const BackwardPass &pass) {
  Scratch scratch(nullptr);
  take_x_scratch(pass, scratch);
  return scratch.floats();
}

// dx of the tokens [from, to) in a tile of d_in, if it is needed, and da = dh^T x over these tokens, unless `da` is
// null.
LILY_INLINE void x_tokens(const BackwardPass &pass, int64_t tile, int64_t from, int64_t to, float *da,
                          const XScratch &scratch) {
  const int64_t rank = pass.call->problem.rank, steps = steps_of<Operand>(rank);
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  const lily_matrix &x = pass.x_rows.matrix, &dx = pass.call->dx;
  const bool prefetches = pass.dx_rows.listed == nullptr &&
                          bytes_of(pass.call->problem.tokens, pass.call->problem.d_in, dx) > kPrefetchedResult;
  const Dropout dropout = dropout_of(*pass.call);
  if (da != nullptr) clear(da, rank * round_up(columns, kLanes));
  for (int64_t t = from; t < to; t += pass.outer_product_tokens) {
    const int64_t step_end = minimum(to, t + pass.outer_product_tokens);
    Mask mask = {};
    if (dropout.drops()) mask = compute_mask(dropout, t, step_end - t, begin, columns, scratch.mask);
    if (dx.data != nullptr) {
      for (int64_t row = t; row < step_end; row += kTileRows) {
        const int64_t rows = minimum(kTileRows, step_end - row);
        // The padding of d_hidden fills up the last step, so that the rows are read in place.
        const LeftOperand<Operand> lhs =
            lhs_of_rows<Operand>(submatrix(pass.d_hidden_lhs, row, 0), rows, steps * Operand::kDepth, nullptr);
        for (int64_t p = 0; p < panel_count(columns); ++p) {
          const int64_t panel = panel_columns(columns, p);
          if (prefetches) prefetch_ahead(to - row, columns, p, submatrix(dx, row, begin));
          const float *const panel_of_a = scratch.a + p * kPanel * steps;
          if (dropout.drops()) {
            float buffer[kTileRows * kPanel];
            multiply_into_buffer(rows, panel, steps, lhs, panel_of_a, buffer);
            write_kept_rows(rows, panel, buffer, round_up(panel, kLanes),
                            mask.from_row(row - t).from_column(p * kPanel), submatrix(dx, row, begin + p * kPanel));
          } else {
            multiply_into(rows, panel, steps, lhs, panel_of_a, rows_from(pass.dx_rows, row, begin + p * kPanel));
          }
          if (da != nullptr) prefetch(rows, panel, submatrix(x, row, begin + p * kPanel));
        }
      }
    }
    if (da != nullptr) {
      const LeftOperand<Operand> lhs =
          lhs_of_columns<Operand>(submatrix(pass.d_hidden_lhs, t, 0), step_end - t, rank, scratch.d_hidden);
      const uint8_t *const keeps = pass.has_gradient == nullptr ? nullptr : pass.has_gradient + t;
      if (dropout.drops() && keeps != nullptr) drop_rows(step_end - t, keeps, mask);
      add_outer_product(rank, step_end - t, lhs, submatrix(x, t, begin), columns, da, scratch.rhs, keeps, mask);
    }
  }
}

void x_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &a = pass.call->a, &da = pass.call->da;
  const int64_t rank = problem.rank, steps = steps_of<Operand>(rank);
  const int64_t tile = task % pass.x.tiles.count, piece = task / pass.x.tiles.count;
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  const int64_t length = pass.x.pieces.length(problem.tokens);
  const bool needs_da = da.data != nullptr;
  Scratch task_scratch(scratch);
  const XScratch parts = take_x_scratch(pass, task_scratch);

  if (pass.call->dx.data != nullptr) {
    for (int64_t p = 0; p < panel_count(columns); ++p) {
      pack<Operand>(rank, panel_columns(columns, p), submatrix(a, 0, begin + p * kPanel), 1.0f,
                    parts.a + p * kPanel * steps, round_up(panel_columns(columns, p), kLanes));
    }
  }
  if (pass.x.da_partials != nullptr) {
    float *const partial = pass.x.da_partials + piece * pass.x.da_partial_floats + begin * rank;
    x_tokens(pass, tile, piece * length, minimum(problem.tokens, (piece + 1) * length), needs_da ? partial : nullptr,
             parts);
    return;
  }
  int64_t t = 0;
  do {
    float *const piece_of_da = t == 0 ? parts.da : parts.da_piece;
    x_tokens(pass, tile, t, minimum(problem.tokens, t + length), needs_da ? piece_of_da : nullptr, parts);
    if (needs_da && t > 0) add_floats(rank * round_up(columns, kLanes), piece_of_da, parts.da);
    t += length;
  } while (t < problem.tokens);
  if (needs_da) write_panels(rank, columns, parts.da, 1.0f, submatrix(da, 0, begin), da.accumulate != 0);
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
