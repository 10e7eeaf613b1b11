// The dy pass: computes q and D in one pass over dy for each tile of the rank. A task processes one split of d_out, in
// tiles of the rank; or, if the threads share these tiles evenly, one tile, to whose q it adds the splits in order; or,
// with many threads, one piece of the tokens and one tile of the rank of a split, and add_d_partials completes D.
//
//   q_t   = s dy_t C_g^T        v_t = s dy_t B^T with token routing
//   D_g   = s lhs^T dy          lhs is hidden, or u_t = p_t (x) h_t with token routing
//   dw_ge = <B_e, D_g>
//   dB_e (+)= sum_g w_ge D_g    or deferred_db, which a fold adds up over several layers
//
//   dy                  M x d_out, pitched
//   lhs                 M x stack.rank, contiguous
//   q_partials          [split][rows][pitch], float32: the sum over the columns of the split; or one array
//   d_partials          [piece][rank tile][panel of d_out][rows of the tile][width], float32: D without the factor s
//   d_weights.partials  [panel of d_out][tile of the rank][G][E], double: the sum over the columns of the panel
//   db                  E r x d_out, pitched; d_out x r for LoRA
//   deferred_db         [partials][r][d_out], contiguous, float32: one D_g per group, or one sum_g w_ge D_g per expert
//
// Scratch holds, for one split, one tile of the rank and one group, s C^T packed [panel of rank][step of
// columns][width], and D without the factor s packed [panel of columns][rank][width], also of one piece.
//
// A group without a kept token has q = 0 and D = 0; its dy and lhs are not read, because they may be NaN.
//
// dy is read once from memory, and for each further tile of the rank from a cache; B is read once per group or piece,
// and dB is read and written once per group.
#pragma once

#include "cpu/expert_stack.h"
#include "cpu/outer_product.h"
#include "cpu/scratch.h"

namespace lily::cpu {
namespace {

// Floats for the tokens of one outer product: a copy of the rows of dy (lhs_of_rows), and one of the columns of lhs
// (lhs_of_columns). 0 if the register tile reads them in place.
LILY_INLINE int64_t dy_scratch_floats(const BackwardPass &pass) {
  return pass.call->problem.activation_dtype == LILY_FLOAT32
             ? 0
             : pass.outer_product_tokens * round_up(pass.dy.splits.width, kLanes);
}
LILY_INLINE int64_t lhs_scratch_floats(const BackwardPass &pass) {
  if (pass.lhs.dtype == LILY_FLOAT32) return 0;
  return steps_of<Operand>(pass.outer_product_tokens) * round_up(pass.stack.rank, kLanes);
}

// Rows of D in scratch: add_d_partials completes whole tiles of dw, and no tile of the dy pass has more.
LILY_INLINE int64_t widest_rank_tile(const BackwardPass &pass) {
  return minimum(pass.stack.rank, pass.d_weights.rank_tiles.width);
}

LILY_INLINE int64_t d_tile_floats(const BackwardPass &pass) {
  return widest_rank_tile(pass) * round_up(pass.dy.splits.width, kLanes);
}

// The scratch of a task.
struct DyScratch {
  float *combined;    // s C^T
  float *d_combined;  // D
  float *d_piece;     // D of a piece after the first
  float *rhs, *transpose, *dy, *lhs;
};
LILY_INLINE DyScratch take_dy_scratch(const BackwardPass &pass, Scratch &scratch) {
  DyScratch parts = {};
  parts.combined = scratch.take(steps_of<Operand>(pass.dy.splits.width) * round_up(widest_rank_tile(pass), kLanes));
  parts.d_combined = scratch.take(d_tile_floats(pass));
  parts.d_piece = scratch.take(pass.groups.pieces.count(pass.groups.tokens) > 1 ? d_tile_floats(pass) : 0);
  parts.rhs = scratch.take(pass.outer_product_tokens * kPanel);
  parts.transpose = scratch.take(kTransposeScratchFloats);
  parts.dy = scratch.take(dy_scratch_floats(pass));
  parts.lhs = scratch.take(lhs_scratch_floats(pass));
  return parts;
}
LILY_INLINE DyScratch dy_scratch(const BackwardPass &pass, float *memory) {
  Scratch scratch(memory);
  return take_dy_scratch(pass, scratch);
}
LILY_INLINE int64_t backward_dy_scratch(const BackwardPass &pass) {
  Scratch scratch(nullptr);
  take_dy_scratch(pass, scratch);
  return scratch.floats();
}

// The part of the dy pass that a step of the loops below computes: columns of d_out for tokens of one group, and rows
// of the rank.
struct DyPart {
  int64_t split, begin, end;  // columns, of one split
  int64_t group;
  int64_t first, rows;  // of the rank

  LILY_INLINE bool has_gradient(const BackwardPass &pass) const {
    const int64_t token = pass.groups.begin(group);
    return pass.has_gradient == nullptr || token == pass.groups.end(group) || pass.has_gradient[token] != 0;
  }
};

LILY_INLINE DyPart part_of(const BackwardPass &pass, int64_t split, int64_t group, int64_t rank_tile) {
  const int64_t first = pass.dy.rank_tiles.begin(rank_tile);
  return {split,
          pass.dy.splits.begin(split),
          pass.dy.splits.end(split),
          group,
          first,
          pass.dy.rank_tiles.end(rank_tile) - first};
}

// <B, D> over `rows` rows and the `columns` columns of a panel of B, without s.
LILY_INLINE double dot_rows(const lily_matrix &b, int64_t rows, int64_t columns, const float *d) {
  const int64_t width = round_up(columns, kLanes);
  Vector products[kPanelVectors] = {};
  with_element(b.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto *row = static_cast<const decltype(element) *>(b.data) + i * b.pitch;
      for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        products[j / kLanes] += load(d + i * width + j) * load_up_to(row + j, count);
      });
    }
  });
  Vector sum = products[0];
  for (int64_t j = 1; j < kPanelVectors; ++j) sum += products[j];
  return static_cast<double>(sum_lanes(sum));
}

// The partial sums of dw = <B, D> of the part.
LILY_INLINE void write_d_weights(const BackwardPass &pass, const DyPart &part, const float *d_combined) {
  const ExpertStack &stack = pass.stack;
  const int64_t columns_of_part = part.end - part.begin, tile = part.first / pass.d_weights.rank_tiles.width;
  for (int64_t p = 0; p < panel_count(columns_of_part); ++p) {
    const int64_t panel = part.begin / kPanel + p, columns = panel_columns(columns_of_part, p);
    const int64_t partial = panel * pass.d_weights.rank_tiles.count + tile;
    double *d_weights = pass.d_weights.partials + (partial * pass.groups.count + part.group) * stack.experts;
    const float *const d = d_combined + p * kPanel * part.rows;
    for (int64_t e = 0; e < stack.experts; ++e) {
      for (int64_t i = 0; i < part.rows; i += kDotRows) {
        const lily_matrix b = submatrix(stack.b, e * stack.rank + part.first + i, panel * kPanel);
        const double of_rows =
            stack.scaling * dot_rows(b, minimum(kDotRows, part.rows - i), columns, d + i * round_up(columns, kLanes));
        d_weights[e] = i == 0 ? of_rows : d_weights[e] + of_rows;
      }
    }
  }
}

// dB of LoRA, whose b is [d_out, r].
LILY_INLINE void write_transposed_db(const BackwardPass &pass, const DyPart &part, const float *d_combined,
                                     float *transpose_scratch) {
  const lily_matrix &db = pass.call->db;
  const int64_t columns_of_part = part.end - part.begin;
  for (int64_t p = 0; p < panel_count(columns_of_part); ++p) {
    const int64_t columns = panel_columns(columns_of_part, p);
    for (int64_t i = 0; i < part.rows; i += kPanel) {
      const int64_t rows = minimum(kPanel, part.rows - i), width = round_up(columns, kLanes);
      const lily_matrix square = {const_cast<float *>(d_combined) + p * kPanel * part.rows + i * width, width,
                                  LILY_FLOAT32, 0};
      pack_transposed<Floats>(rows, columns, square, pass.stack.scaling, transpose_scratch, round_up(rows, kLanes));
      write_panels(columns, rows, transpose_scratch, 1.0f, submatrix(db, part.begin + p * kPanel, part.first + i),
                   db.accumulate != 0);
    }
  }
}

// dB, or its deferred partials.
LILY_INLINE void write_db(const BackwardPass &pass, const DyPart &part, const float *d_combined) {
  const ExpertStack &stack = pass.stack;
  const int64_t group = part.group, columns = part.end - part.begin;
  const float *const weights = stack.weights + group * stack.experts;
  const lily_matrix target = pass.db_target(), &db = pass.call->db;
  if (pass.defers_d()) {
    write_panels(part.rows, columns, d_combined, stack.scaling,
                 submatrix(target, group * stack.rank + part.first, part.begin), false);
    return;
  }
  // Only the first group may overwrite the old contents; later groups add to it.
  const bool accumulate = group > 0 || target.accumulate != 0;
  const bool completes_sums = pass.db_sums.data != nullptr && group == pass.groups.count - 1;
  for (int64_t e = 0; e < stack.experts; ++e) {
    const int64_t row = e * stack.rank + part.first;
    const lily_matrix out = submatrix(target, row, part.begin);
    write_panels(part.rows, columns, d_combined, stack.scaling * weights[e], out, accumulate);
    if (completes_sums) {
      write_rows(part.rows, columns, static_cast<const float *>(out.data), out.pitch, 1.0f,
                 submatrix(db, row, part.begin), db.accumulate != 0);
    }
  }
}

// Everything that depends on D_g. `d_combined` holds D of the part, whose rows of the rank follow the rows of the parts
// before; `transpose_scratch` holds kTransposeScratchFloats.
LILY_INLINE void write_d_weights_and_db(const BackwardPass &pass, const DyPart &part, const float *d_combined,
                                        float *transpose_scratch) {
  if (pass.needs_d_weights) write_d_weights(pass, part, d_combined);
  if (!pass.needs_db) return;
  if (pass.stack.transposed) {
    write_transposed_db(pass, part, d_combined, transpose_scratch);
  } else {
    write_db(pass, part, d_combined);
  }
}

// Packs s C^T of the part.
LILY_INLINE void combine_part(const BackwardPass &pass, const DyPart &part, const DyScratch &scratch) {
  const int64_t columns = part.end - part.begin, steps = steps_of<Operand>(columns);
  for (int64_t p = 0; p < panel_count(part.rows); ++p) {
    const int64_t rows = panel_columns(part.rows, p);
    combine_transposed_panel(pass.stack, {part.group, part.first + p * kPanel, rows, part.begin, columns},
                             scratch.combined + p * kPanel * steps, round_up(rows, kLanes), scratch.transpose);
  }
}

// q of the tokens [from, to), if it is needed, and D = lhs^T dy over these tokens, unless `d` is null.
LILY_INLINE void add_tokens(const BackwardPass &pass, const DyPart &part, int64_t from, int64_t to, float *d,
                            const DyScratch &scratch) {
  const int64_t columns = part.end - part.begin, steps = steps_of<Operand>(columns);
  const TileKind kind = tile_kind(pass.call->problem, pass.stack.rank, pass.dy_rows.matrix, pass.call->problem.d_out);
  float *const q = pass.q_partials.row_of_split(part.split, 0) + part.first;
  if (d != nullptr) clear(d, part.rows * round_up(columns, kLanes));
  if (!part.has_gradient(pass)) {
    const int64_t width = round_up(part.rows, kLanes);
    for (int64_t t = from; pass.needs_d_hidden && t < to; ++t) clear(q + t * pass.q_partials.pitch, width);
    return;
  }
  for (int64_t t = from; t < to; t += pass.outer_product_tokens) {
    const int64_t tokens = minimum(pass.outer_product_tokens, to - t);
    const lily_matrix dy_tile = submatrix(pass.dy_rows.matrix, t, part.begin);
    lily_matrix rhs = dy_tile;
    if (pass.needs_d_hidden) {
      const LeftOperand<Operand> lhs = lhs_of_rows<Operand>(dy_tile, tokens, columns, scratch.dy);
      // Rows that were copied to float32 are not converted again for D.
      if (Operand::kDtype == LILY_FLOAT32 && dy_tile.dtype != LILY_FLOAT32) {
        rhs = {scratch.dy, lhs.row_stride, LILY_FLOAT32, 0};
      }
      for (int64_t p = 0; p < panel_count(part.rows); ++p) {
        const int64_t width = round_up(panel_columns(part.rows, p), kLanes);
        multiply_rows({tokens, width, steps}, lhs, {scratch.combined + p * kPanel * steps, width},
                      {q + t * pass.q_partials.pitch + p * kPanel, pass.q_partials.pitch},
                      pass.q_partials.accumulates(part.split), kind, next_rows<Operand>(dy_tile, tokens, columns));
      }
    }
    if (d != nullptr) {
      const LeftOperand<Operand> lhs =
          lhs_of_columns<Operand>(submatrix(pass.lhs, t, part.first), tokens, part.rows, scratch.lhs);
      add_outer_product(part.rows, tokens, lhs, rhs, columns, d, scratch.rhs);
    }
  }
}

// A part for all tokens of its group, piece by piece.
LILY_INLINE void dy_part(const BackwardPass &pass, const DyPart &part, const DyScratch &scratch) {
  const int64_t group_begin = pass.groups.begin(part.group), group_end = pass.groups.end(part.group);
  const int64_t length = pass.groups.pieces.length(group_end - group_begin);
  if (pass.needs_d_hidden && group_begin < group_end && part.has_gradient(pass)) combine_part(pass, part, scratch);
  int64_t t = group_begin;
  do {
    float *const d = t == group_begin ? scratch.d_combined : scratch.d_piece;
    add_tokens(pass, part, t, minimum(group_end, t + length), pass.needs_d_combined ? d : nullptr, scratch);
    if (pass.needs_d_combined && t > group_begin) {
      add_floats(part.rows * round_up(part.end - part.begin, kLanes), d, scratch.d_combined);
    }
    t += length;
  } while (t < group_end);
  if (pass.needs_d_combined) write_d_weights_and_db(pass, part, scratch.d_combined, scratch.transpose);
}

// One tile of the rank for all splits, or one split for all tiles of the rank, for all tokens.
LILY_INLINE void dy_parts(const BackwardPass &pass, int64_t task, const DyScratch &scratch) {
  const bool tasks_are_rank_tiles = pass.q_partials.count == 1;
  const int64_t first_split = tasks_are_rank_tiles ? 0 : task, first_tile = tasks_are_rank_tiles ? task : 0;
  const int64_t splits = tasks_are_rank_tiles ? pass.dy.splits.count : 1;
  const int64_t tiles = tasks_are_rank_tiles ? 1 : pass.dy.rank_tiles.count;
  for (int64_t split = first_split; split < first_split + splits; ++split) {
    for (int64_t group = 0; group < pass.groups.count; ++group) {
      for (int64_t tile = first_tile; tile < first_tile + tiles; ++tile) {
        dy_part(pass, part_of(pass, split, group, tile), scratch);
      }
    }
  }
}

// The columns from `begin` on of a rank tile of d_partials.
LILY_INLINE float *d_partial(const BackwardPass &pass, int64_t piece, int64_t rank_tile, int64_t begin) {
  const int64_t first = pass.dy.rank_tiles.begin(rank_tile), rows = pass.dy.rank_tiles.end(rank_tile) - first;
  return pass.dy.d_partials + piece * pass.dy.d_partial_floats + first * round_up(pass.dy.splits.columns, kLanes) +
         begin * rows;
}

void dy_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const DyScratch parts = dy_scratch(pass, scratch);
  if (pass.dy.d_partials == nullptr) {
    dy_parts(pass, task, parts);
    return;
  }
  // The rank tiles of one piece of dy follow each other, so that dy is in the cache.
  const int64_t rank_tile = task % pass.dy.rank_tiles.count;
  const int64_t pieces = pass.groups.piece_count(), piece = task / pass.dy.rank_tiles.count % pieces;
  const int64_t split = task / pass.dy.rank_tiles.count / pieces;
  const int64_t group = pass.groups.of_piece(piece), group_end = pass.groups.end(group);
  const int64_t length = pass.groups.pieces.length(group_end - pass.groups.begin(group));
  const int64_t from = pass.groups.begin(group) + (piece - pass.groups.first_piece(group)) * length;
  const int64_t to = minimum(group_end, from + length);
  const DyPart part = part_of(pass, split, group, rank_tile);
  if (pass.needs_d_hidden && from < to && part.has_gradient(pass)) combine_part(pass, part, parts);
  float *const d = pass.needs_d_combined ? d_partial(pass, piece, rank_tile, part.begin) : nullptr;
  add_tokens(pass, part, from, to, d, parts);
}

// Adds the pieces of D for a tile of columns, a tile of dw at a time, and writes what depends on it.
void add_d_partials(const BackwardPass &pass, int64_t tile, float *scratch) {
  const DyScratch parts = dy_scratch(pass, scratch);
  const int64_t tile_end = pass.dy.d_sum_tiles.end(tile);
  for (int64_t begin = pass.dy.d_sum_tiles.begin(tile); begin < tile_end; begin += kPanel) {
    const int64_t end = minimum(tile_end, begin + kPanel), width = round_up(end - begin, kLanes);
    for (int64_t group = 0; group < pass.groups.count; ++group) {
      const int64_t piece = pass.groups.first_piece(group), pieces = pass.groups.first_piece(group + 1) - piece;
      for (int64_t weights_tile = 0; weights_tile < pass.d_weights.rank_tiles.count; ++weights_tile) {
        const int64_t first = pass.d_weights.rank_tiles.begin(weights_tile),
                      last = pass.d_weights.rank_tiles.end(weights_tile);
        for (int64_t row = first, rank_tile = first / pass.dy.rank_tiles.width; row < last; ++rank_tile) {
          const int64_t rows = minimum(last, pass.dy.rank_tiles.end(rank_tile)) - row;
          const float *const partial =
              d_partial(pass, piece, rank_tile, begin) + (row - pass.dy.rank_tiles.begin(rank_tile)) * width;
          add_partials(rows * width, partial, pass.dy.d_partial_floats, pieces,
                       parts.d_combined + (row - first) * width);
          row += rows;
        }
        write_d_weights_and_db(pass, {0, begin, end, group, first, last - first}, parts.d_combined, parts.transpose);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
