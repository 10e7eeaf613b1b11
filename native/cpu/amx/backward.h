// The large products of the backward pass on AMX. The passes between them are those of the vector kernels.
//
//   pack_lhs       lhs^T as left operand. Tasks: tiles of kTokenTile tokens
//   pack_c, q      q = s dy C^T where dy is read twice: C^T as rhs, then a product like shrink
//   dy_pass        D_g = s lhs^T dy, dw, dB; and q of its columns where dy is read once. Tasks: runs of splits of d_out
//   pack_d_hidden  dh^T as left operand. Tasks: tiles of kTokenTile tokens
//   dx_pass        dx (+)= dh A. Tasks: tiles of d_in x tiles of tokens
//   da_pass        dA (+)= dh^T x. Tasks: tiles of d_in
//
//   lhs_packed          [block of 32 of r][step of 32 tokens of a group][2 tiles]; later the same of dh, without groups
//   q_partials          [split][q_rows][lhs_pitch], float32; one split where dy is read twice
//   d_weights_partials  [split][G][E], double
//   sums                [panel of 32 columns][r rounded up to 32][32]: first the even columns of the panel
//
// A group without a kept token has q = 0 and D = 0; its dy and lhs are not read, because they may be NaN.
//
// dy is read once up to kOneSweepRank: its tile is in the L2 cache when D needs it. Above, the products take longer
// than the memory, and the partial sums of q would be large.
#pragma once

#include "cpu/amx/forward.h"
#include "cpu/backward_direct.h"
#include "cpu/backward_hidden.h"
#include "cpu/backward_router.h"

namespace lily::cpu {
namespace {

// The rank up to which an outer product packs one panel of 32 columns at a time into the L1 cache and uses it at once.
// Above, the rows of lhs stay in the L1 cache while all panels pass from the L2 cache.
constexpr int64_t kByPanelRank = 128;

// The tokens between two times that the sums of an outer product go to memory.
LILY_INLINE int64_t outer_tokens(int64_t rank) { return rank <= 64 ? 64 : rank <= kByPanelRank ? 128 : 512; }

LILY_INLINE int64_t sums_floats(int64_t rank, int64_t columns) { return round_up(rank, 32) * round_up(columns, 32); }

LILY_INLINE int64_t outer_rhs_floats(int64_t rank, int64_t columns) {
  const int64_t panels = rank <= kByPanelRank ? 1 : tile_steps(columns);
  return panels * outer_tokens(rank) / kStepDepth * kStepHalves / 2;
}

// sums = lhs^T rhs over the tokens [begin, end). `lhs` is the step of token `begin` of the packed operand, whose blocks
// are block_pitch numbers apart. A row of rhs counts as zero where `keeps` is 0; null keeps all. before(t, tokens) is
// called for the tokens of each run before they are packed.
template <typename Before>
LILY_INLINE void outer_product(int64_t rank, const BFloat16 *lhs, int64_t block_pitch, const lily_matrix &rhs,
                               int64_t columns, int64_t begin, int64_t end, const uint8_t *keeps, float *sums,
                               float *scratch, Before before) {
  BFloat16 *const packed = halves_at(scratch);
  const int64_t rows = round_up(rank, 32);
  if (begin == end) clear(sums, sums_floats(rank, columns));
  for (int64_t t = begin; t < end; t += outer_tokens(rank)) {
    const int64_t tokens = minimum(outer_tokens(rank), end - t), steps = tile_steps(tokens);
    before(t, tokens);
    const BFloat16 *const lhs_step = lhs + (t - begin) / kStepDepth * kStepHalves;
    const auto add = [&](int64_t n, int64_t j, const BFloat16 *panel) __attribute__((always_inline)) {
      multiply_tiles(rank - n, 32, steps, packed_lhs(lhs_step + n / 32 * block_pitch), panel, sums + j * rows + n * 32,
                     32, t > begin);
    };
    const lily_matrix tile = submatrix(rhs, t, 0);
    const uint8_t *const keeps_tile = keeps == nullptr ? nullptr : keeps + t;
    if (rank <= kByPanelRank) {
      for (int64_t j = 0; j < columns; j += 32) {
        pack_rhs<Columns::kSplit>(matrix_of(submatrix(tile, 0, j), tokens, minimum(32, columns - j), keeps_tile), steps,
                                  packed, 0);
        for (int64_t n = 0; n < rank; n += 32) add(n, j, packed);
      }
    } else {
      pack_rhs<Columns::kSplit>(matrix_of(tile, tokens, columns, keeps_tile), steps, packed, steps * kStepHalves);
      for (int64_t n = 0; n < rank; n += 32) {
        for (int64_t j = 0; j < columns; j += 32) add(n, j, packed + j / 32 * steps * kStepHalves);
      }
    }
  }
}

LILY_INLINE Row row_of_sums(int64_t rank, const float *sums, int64_t i, int64_t j) {
  const float *row = sums + j * round_up(rank, 32) + i * 32;
  return {load(row), load(row + 16)};
}

// ---- Packed left operands ----

// Packs up to kTokenTile rows from `begin` on. `steps` are all steps of a block.
LILY_INLINE void pack_token_tile(const lily_matrix &matrix, int64_t begin, int64_t end, int64_t columns, void *packed,
                                 int64_t step, int64_t steps) {
  const int64_t tokens = minimum(kTokenTile, end - begin);
  pack_lhs_transposed(matrix_of(submatrix(matrix, begin, 0), tokens, columns), tile_steps(tokens),
                      static_cast<BFloat16 *>(packed) + step * kStepHalves, steps * kStepHalves);
}

void pack_lhs(const BackwardPass &pass, int64_t tile) {
  const int64_t group = pass.groups.of_tile(tile), in_group = tile - pass.groups.first_tile(group);
  pack_token_tile(pass.lhs, pass.groups.begin(group) + in_group * kTokenTile, pass.groups.end(group), pass.stack.rank,
                  pass.lhs_packed, pass.groups.first_step(group) + in_group * (kTokenTile / kStepDepth),
                  pass.groups.step_count());
}

void pack_d_hidden(const BackwardPass &pass, int64_t tile) {
  const lily_problem &problem = pass.call->problem;
  pack_token_tile(pass.d_hidden_lhs, tile * kTokenTile, problem.tokens, problem.rank, pass.lhs_packed,
                  tile * (kTokenTile / kStepDepth), tile_steps(problem.tokens));
}

// With one group the tiles of both passes are the same.
void compute_and_pack_d_hidden(const BackwardPass &pass, int64_t tile) {
  compute_d_hidden(pass, tile);
  if (pass.groups.count == 1 && pass.call->da.data != nullptr && !pass.is_direct) pack_d_hidden(pass, tile);
}

// ---- q ----

// Packs C^T for the columns [begin, begin + columns) of d_out: panels of r, which are panel_pitch numbers apart. `rows`
// holds 32 rows of that many columns.
LILY_INLINE void pack_combined_transposed(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns,
                                          BFloat16 *out, int64_t panel_pitch, BFloat16 *rows) {
  const int64_t steps = tile_steps(columns);
  if (stack.transposed) {
    with_scaled(submatrix(stack.b, begin, 0), columns, stack.rank, stack.scaling,
                [&](const auto &b)
                    __attribute__((always_inline)) { pack_rhs<Columns::kInOrder>(b, steps, out, panel_pitch); });
    return;
  }
  with_combined(stack, group, begin, columns, [&](const auto &combined) __attribute__((always_inline)) {
    const int64_t pitch = steps * kStepDepth;
    for (int64_t n = 0; n < stack.rank; n += 32) {
      const int64_t count = minimum(32, stack.rank - n);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < pitch; j += 32) store_halves(rows + i * pitch + j, combined.halves(n + i, j));
      }
      pack_rhs_transposed<Columns::kInOrder>(ScaledMatrix<BFloat16>{rows, pitch, count, pitch, 1.0f}, 0, steps,
                                             out + n / 32 * panel_pitch);
    }
  });
}

void pack_c(const BackwardPass &pass, int64_t piece, float *scratch) {
  const int64_t begin = pass.c_pieces.begin(piece), columns = pass.c_pieces.end(piece) - begin;
  pack_combined_transposed(pass.stack, 0, begin, columns,
                           static_cast<BFloat16 *>(pass.c_packed) + begin / kStepDepth * kStepHalves,
                           tile_steps(pass.call->problem.d_out) * kStepHalves, halves_at(scratch));
}

void q_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const TileScope tiles;
  const lily_problem &problem = pass.call->problem;
  const int64_t tile = task / pass.q_token_tiles;
  const int64_t first = pass.rank_tiles.begin(tile), last = pass.rank_tiles.end(tile);
  const int64_t begin = task % pass.q_token_tiles * pass.q_tile_tokens;
  const int64_t end = minimum(problem.tokens, begin + pass.q_tile_tokens);
  if (pass.has_gradient != nullptr) {  // there is one group
    for (int64_t t = begin; t < end; ++t) {
      clear(pass.q_partials + t * pass.lhs_pitch + first, round_up(last, kLanes) - first);
    }
    return;
  }
  multiply_rows_by_packed(pass.call->dy, problem.tokens, problem.d_out, pass.q_depth,
                          static_cast<const BFloat16 *>(pass.c_packed), begin, end, first, last, pass.q_partials,
                          pass.lhs_pitch, halves_at(scratch));
}

// ---- dy pass ----

// Calls body(split, begin, end) for the parts of the splits of d_out that lie in the given columns.
template <typename Body>
LILY_INLINE void for_splits(const BackwardPass &pass, int64_t begin, int64_t columns, const Body &body) {
  for (int64_t split = begin / pass.dy_splits.width; pass.dy_splits.begin(split) < begin + columns; ++split) {
    body(split, maximum(begin, pass.dy_splits.begin(split)), minimum(begin + columns, pass.dy_splits.end(split)));
  }
}

// The operand of q for one group and the columns [begin, begin + columns) of d_out: C^T as rhs. With few tokens
// (`exchanges`) the rows of C are the left operand instead, and dy^T is packed.
struct QOperand {
  const BFloat16 *combined;
  int64_t begin, columns;
  bool exchanges;
};

// Adds q of the tokens [t, t + tokens) of that group.
LILY_INLINE void add_q(const BackwardPass &pass, const QOperand &c, int64_t t, int64_t tokens, BFloat16 *copy) {
  const int64_t rank = pass.stack.rank, panel_pitch = tile_steps(c.columns) * kStepHalves;
  const lily_matrix dy = submatrix(pass.call->dy, t, 0);
  for_splits(pass, c.begin, c.columns, [&](int64_t split, int64_t begin, int64_t end) __attribute__((always_inline)) {
    const bool accumulate = begin > pass.dy_splits.begin(split);
    float *q = pass.q_partials + (split * pass.q_rows + t) * pass.lhs_pitch;
    if (!c.exchanges) {
      for (int64_t i = 0; i < tokens; i += 32) {
        multiply_row_block(matrix_of(dy, tokens, end), i, begin, end,
                           c.combined + (begin - c.begin) / kStepDepth * kStepHalves, panel_pitch, 0, rank,
                           q + i * pass.lhs_pitch, pass.lhs_pitch, accumulate, copy);
      }
      return;
    }
    const int64_t steps = tile_steps(end - begin), pitch = tile_steps(c.columns) * kStepDepth;
    pack_few_tokens(matrix_of(dy, tokens, end), begin, steps, true, copy);
    for (int64_t n = 0; n < rank; n += 32) {
      // The sums of q^T, which continue those of the tile before.
      alignas(64) float sums[32 * 32];
      const int64_t rows = minimum(32, pass.lhs_pitch - n);
      for (int64_t i = 0; accumulate && i < tokens; ++i) {
        for (int64_t j = 0; j < rows; ++j) sums[j * 32 + i] = q[i * pass.lhs_pitch + n + j];
      }
      multiply_tiles(rank - n, tokens, steps, lhs_in_place(c.combined + n * pitch + begin - c.begin, pitch), copy, sums,
                     32, accumulate);
      for (int64_t i = 0; i < tokens; ++i) {
        for (int64_t j = 0; j < rows; ++j) q[i * pass.lhs_pitch + n + j] = sums[j * 32 + i];
      }
    }
  });
}

// s C^T for one group and some columns.
LILY_INLINE QOperand q_operand(const BackwardPass &pass, int64_t group, int64_t begin, int64_t columns,
                               BFloat16 *combined, BFloat16 *rows) {
  const ExpertStack &stack = pass.stack;
  const int64_t tokens = pass.groups.end(group) - pass.groups.begin(group);
  const bool exchanges = !stack.transposed && tokens <= kFewTokens && tokens < stack.rank;
  if (!exchanges) {
    pack_combined_transposed(stack, group, begin, columns, combined, tile_steps(columns) * kStepHalves, rows);
    return {combined, begin, columns, false};
  }
  const int64_t pitch = tile_steps(columns) * kStepDepth;
  with_combined(stack, group, begin, columns, [&](const auto &c) __attribute__((always_inline)) {
    for (int64_t i = 0; i < round_up(stack.rank, 16); ++i) {
      for (int64_t j = 0; j < pitch; j += 32) store_halves(combined + i * pitch + j, c.halves(i, j));
    }
  });
  return {combined, begin, columns, true};
}

// dB of LoRA, whose b is [d_out, r]: squares of 16 of every other row.
LILY_INLINE void write_transposed_db(const BackwardPass &pass, int64_t begin, int64_t columns, const float *sums) {
  const lily_matrix &db = pass.call->db;
  const int64_t rank = pass.stack.rank;
  with_parameter(db.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t j = 0; j < columns; j += 32) {
      for (int64_t n = 0; n < rank; n += 16) {
        for (int64_t odd = 0; odd < 2; ++odd) {
          Vector square[16];
          for (int64_t i = 0; i < 16; ++i) {
            square[i] = load(sums + j * round_up(rank, 32) + (n + i) * 32 + odd * 16);
          }
          transpose_square(square);
          for (int64_t i = 0; i < 16 && j + 2 * i + odd < columns; ++i) {
            E *row = static_cast<E *>(submatrix(db, begin + j + 2 * i + odd, n).data);
            const int64_t count = minimum(16, rank - n);
            const Vector value = pass.stack.scaling * square[i];
            store_up_to(row, db.accumulate != 0 ? load_up_to(row, count) + value : value, count);
          }
        }
      }
    }
  });
}

// What depends on D_g in the columns [begin, end) of one split: dw, and dB or its deferred partials. `sums` starts at
// `begin`.
LILY_INLINE void write_d_weights_and_db(const BackwardPass &pass, int64_t split, int64_t group, int64_t begin,
                                        int64_t end, const float *sums) {
  const lily_problem &problem = pass.call->problem;
  const ExpertStack &stack = pass.stack;
  const int64_t columns = end - begin;
  const int64_t rank = stack.rank;
  if (stack.transposed) {
    if (pass.needs_db) write_transposed_db(pass, begin, columns, sums);
    return;
  }
  const bool deferred = pass.call->deferred_db != nullptr, summed = pass.db_sums.data != nullptr;
  const bool whole = deferred && !pass.deferred_is_weighted;  // D_g itself is the result
  const lily_matrix target = deferred ? lily_matrix{pass.call->deferred_db, problem.d_out, LILY_FLOAT32, 0}
                             : summed ? pass.db_sums
                                      : pass.call->db;
  // Only the first group may overwrite the old contents; later groups add to it.
  const bool accumulate = target.accumulate != 0 || (group > 0 && !whole);
  with_parameter(stack.b.dtype, [&](auto parameter) __attribute__((always_inline)) {
    with_parameter(target.dtype, [&](auto element) __attribute__((always_inline)) {
      using B = decltype(parameter);
      using E = decltype(element);
      for (int64_t e = 0; e < stack.experts; ++e) {
        const bool writes = pass.needs_db && (!whole || e == 0);
        const Vector factor =
            broadcast(whole ? stack.scaling : stack.scaling * stack.weights[group * stack.experts + e]);
        const B *b = static_cast<const B *>(stack.b.data) + e * rank * stack.b.pitch + begin;
        E *out = static_cast<E *>(target.data) + (whole ? group : e) * rank * target.pitch + begin;
        Row products = {};
        for (int64_t i = 0; i < rank; ++i) {
          for (int64_t j = 0; j < columns; j += 32) {
            const Row d = row_of_sums(rank, sums, i, j);
            if (pass.needs_d_weights) {
              const Row row = load_row(b + i * stack.b.pitch + j, columns - j);
              products.even += row.even * d.even;
              products.odd += row.odd * d.odd;
            }
            if (writes) write_row(out + i * target.pitch + j, factor, d, columns - j, accumulate);
          }
        }
        if (pass.needs_d_weights) {
          const double sum = static_cast<double>(sum_lanes(products.even)) + sum_lanes(products.odd);
          double &partial = pass.d_weights_partials[(split * pass.groups.count + group) * stack.experts + e];
          partial = (begin > pass.dy_splits.begin(split) ? partial : 0.0) + stack.scaling * sum;
        }
      }
    });
  });
  if (summed && pass.needs_db && group == pass.groups.count - 1) {
    write_rows(stack.experts * rank, columns, static_cast<const float *>(target.data) + begin, target.pitch, 1.0f,
               submatrix(pass.call->db, 0, begin), pass.call->db.accumulate != 0);
  }
}

// The columns [begin, begin + columns), whose sums of D fit the cache.
LILY_INLINE void dy_tile(const BackwardPass &pass, int64_t begin, int64_t columns, float *scratch) {
  const int64_t rank = pass.stack.rank, widest = pass.dy_tile_columns;
  const bool needs_d_combined = pass.needs_db || pass.needs_d_weights;
  const bool needs_q = pass.needs_d_hidden && pass.reads_dy_once;
  float *sums = scratch, *rhs = sums + sums_floats(rank, widest), *copy = rhs + outer_rhs_floats(rank, widest);
  float *combined = copy + kChunkFloats, *rows = combined + packed_floats(rank, widest);
  for (int64_t group = 0; group < pass.groups.count; ++group) {
    const int64_t group_begin = pass.groups.begin(group), group_end = pass.groups.end(group);
    const bool has_gradient =
        group_begin < group_end && (pass.has_gradient == nullptr || pass.has_gradient[group_begin] != 0);
    QOperand c = {};
    if (needs_q && !has_gradient) {
      for_splits(pass, begin, columns, [&](int64_t split, int64_t, int64_t) __attribute__((always_inline)) {
        clear(pass.q_partials + (split * pass.q_rows + group_begin) * pass.lhs_pitch,
              (group_end - group_begin) * pass.lhs_pitch);
      });
    } else if (needs_q) {
      c = q_operand(pass, group, begin, columns, halves_at(combined), halves_at(rows));
    }
    const auto q = [&](int64_t t, int64_t tokens) __attribute__((always_inline)) {
      if (needs_q) add_q(pass, c, t, tokens, halves_at(copy));
    };
    if (!needs_d_combined) {
      if (has_gradient) q(group_begin, group_end - group_begin);
      continue;
    }
    const int64_t steps = pass.groups.step_count();
    const auto *lhs = static_cast<const BFloat16 *>(pass.lhs_packed) + pass.groups.first_step(group) * kStepHalves;
    outer_product(rank, lhs, steps * kStepHalves, submatrix(pass.call->dy, 0, begin), columns, group_begin,
                  has_gradient ? group_end : group_begin, nullptr, sums, rhs, q);
    for_splits(pass, begin, columns, [&](int64_t split, int64_t from, int64_t to) __attribute__((always_inline)) {
      write_d_weights_and_db(pass, split, group, from, to, sums + (from - begin) * round_up(rank, 32));
    });
  }
}

void dy_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const TileScope tiles;
  const int64_t width = pass.dy_task_splits * pass.dy_splits.width;
  const int64_t end = minimum(pass.dy_splits.columns, (task + 1) * width);
  for (int64_t begin = task * width; begin < end; begin += pass.dy_tile_columns) {
    dy_tile(pass, begin, minimum(pass.dy_tile_columns, end - begin), scratch);
  }
}

// ---- dx and dA ----

void dx_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const TileScope tiles;
  const lily_problem &problem = pass.call->problem;
  const int64_t tile = task % pass.dx_column_tiles.count, rank = problem.rank;
  const int64_t begin = pass.dx_column_tiles.begin(tile), columns = pass.dx_column_tiles.end(tile) - begin;
  const int64_t token_begin = task / pass.dx_column_tiles.count * pass.dx_tile_tokens;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.dx_tile_tokens);
  const lily_matrix &lhs = pass.d_hidden_lhs;
  const RowProduct product = {lhs, lhs.pitch, rank, columns, submatrix(pass.call->dx, 0, begin), pass.dx_slab};
  const auto pack_a = [&](int64_t column, int64_t count, BFloat16 *out) __attribute__((always_inline)) {
    with_scaled(submatrix(pass.call->a, 0, begin + column), rank, count, 1.0f,
                [&](const auto &a) __attribute__((always_inline)) {
                  pack_rhs<Columns::kSplit>(a, tile_steps(rank), out, tile_steps(rank) * kStepHalves);
                });
  };
  add_packed_product(product, token_begin, token_end, pass.dx_column_tiles.width, scratch, pack_a);
}

void da_pass(const BackwardPass &pass, int64_t tile, float *scratch) {
  const TileScope tiles;
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &da = pass.call->da;
  const int64_t rank = problem.rank;
  const int64_t begin = pass.x_tiles.begin(tile), columns = pass.x_tiles.end(tile) - begin;
  float *sums = scratch;
  outer_product(rank, static_cast<const BFloat16 *>(pass.lhs_packed), tile_steps(problem.tokens) * kStepHalves,
                submatrix(pass.call->x, 0, begin), columns, 0, problem.tokens, pass.has_gradient, sums,
                scratch + sums_floats(rank, pass.x_tiles.width), [](int64_t, int64_t) {});
  with_parameter(da.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t i = 0; i < rank; ++i) {
      E *row = static_cast<E *>(da.data) + i * da.pitch + begin;
      for (int64_t j = 0; j < columns; j += 32) {
        write_row(row + j, broadcast(1.0f), row_of_sums(rank, sums, i, j), columns - j, da.accumulate != 0);
      }
    }
  });
}

int64_t backward_scratch(const BackwardPass &pass) {
  const int64_t rank = pass.stack.rank, widest = pass.dy_tile_columns;
  const int64_t c_rows = kStepDepth * round_up(maximum(widest, pass.c_pieces.width), 32) / 2;
  const int64_t dy = sums_floats(rank, widest) + outer_rhs_floats(rank, widest) + kChunkFloats +
                     (pass.reads_dy_once ? packed_floats(rank, widest) : 0) + c_rows;
  const int64_t dx = packed_floats(pass.call->problem.rank, pass.dx_column_tiles.width) +
                     row_product_floats(pass.call->problem.rank, pass.dx_slab);
  const int64_t da = sums_floats(pass.call->problem.rank, pass.x_tiles.width) +
                     outer_rhs_floats(pass.call->problem.rank, pass.x_tiles.width);
  return maximum(maximum(maximum(dy, dx), maximum(da, d_router_scratch(pass))), direct_backward_scratch(pass));
}

}  // namespace
}  // namespace lily::cpu
