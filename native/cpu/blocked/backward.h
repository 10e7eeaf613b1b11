// The large products of the backward pass in blocks. The vector kernels have the passes between them.
//
//   pack_lhs       lhs^T as left operand. Tasks: tiles of kTokenTile tokens
//   pack_c, q      q = s dy C^T where dy is read twice: C^T as rhs, then a product like shrink
//   dy_pass        D_g = s lhs^T dy, dw, dB; and q of its columns where dy is read once. Tasks: runs of splits of d_out
//   pack_d_hidden  dh^T as left operand. Tasks: tiles of kTokenTile tokens
//   dx_pass        dx (+)= dh A. Tasks: tiles of d_in x tiles of tokens
//   da_pass        dA (+)= dh^T x. Tasks: tiles of d_in
//
//   lhs_packed          [block of rows of r][step of tokens of a group]; later the same of dh, without groups
//   q_partials          [split][rows][pitch], float32; one split where dy is read twice
//   d_weights.partials  [split][G][E], double
//   sums                [panel of columns][r rounded up to block_rows][panel]
//
// A group without a kept token has q = 0 and D = 0; its dy and lhs are not read, because they may be NaN.
//
// dy is read once up to one_sweep_rank: its tile is in the L2 cache when D needs it. Above, the products take longer
// than the memory, and the partial sums of q would be large.
#pragma once

#include "cpu/backward_hidden.h"
#include "cpu/backward_router.h"
#include "cpu/blocked/forward.h"

namespace lily::cpu {
namespace blocked {
namespace {

// The tokens between two times that the sums of an outer product go to memory.
LILY_INLINE int64_t outer_tokens(int64_t rank) {
  if (rank > kBlocking.by_panel_rank) return kBlocking.chunk_depth;
  return rank <= 64 ? 64 : 128;
}

LILY_INLINE int64_t sums_rows(int64_t rank) { return round_up(rank, kBlocking.block_rows); }
LILY_INLINE int64_t sums_floats(int64_t rank, int64_t columns) {
  return sums_rows(rank) * round_up(columns, kBlocking.panel);
}

LILY_INLINE int64_t outer_rhs_floats(int64_t rank, int64_t columns) {
  const int64_t panels = rank <= kBlocking.by_panel_rank ? 1 : block_panels(columns);
  return panels * block_steps(outer_tokens(rank)) * kPanelFloats;
}

// sums = lhs^T rhs over the tokens [begin, end).
struct OuterProduct {
  int64_t rank;
  const float *lhs;     // packed, from the step of token `begin` on
  int64_t block_pitch;  // from one block of rows of lhs to the next
  lily_matrix rhs;
  int64_t columns;
  int64_t begin, end;
  const uint8_t *keeps;  // a row of rhs counts as zero where it is 0; null keeps all
  // Dropout of rhs, if it is x; the mask begins at this column.
  Dropout dropout = {};
  int64_t first_column = 0;
};

// The scratch of an outer product in pieces.
struct OuterScratch {
  float *sums;
  float *piece_sums;  // of a piece after the first
  float *packed;      // rhs
  float *mask;        // of rhs
};
LILY_INLINE OuterScratch take_outer_scratch(const TokenPieces &pieces, int64_t tokens, int64_t rank, int64_t columns,
                                            bool drops, Scratch &scratch) {
  const bool has_pieces = kBlocking.many_tasks && pieces.count(tokens) > 1;
  OuterScratch parts = {};
  parts.sums = scratch.take(sums_floats(rank, columns));
  parts.piece_sums = scratch.take(has_pieces ? sums_floats(rank, columns) : 0);
  parts.packed = scratch.take(outer_rhs_floats(rank, columns));
  parts.mask = scratch.take(drops ? mask_floats(outer_tokens(rank), columns) : 0);
  return parts;
}

// before(t, tokens) is called for the tokens of each run before they are packed.
template <typename Before>
LILY_INLINE void outer_product(const OuterProduct &product, float *sums, const OuterScratch &scratch, Before before) {
  float *const packed = scratch.packed;
  constexpr int64_t kPanelColumns = kBlocking.panel;
  const int64_t rank = product.rank, columns = product.columns, rows = sums_rows(rank);
  const int64_t begin = product.begin, end = product.end;
  if (begin == end) clear(sums, sums_floats(rank, columns));
  for (int64_t t = begin; t < end; t += outer_tokens(rank)) {
    const int64_t tokens = minimum(outer_tokens(rank), end - t), steps = block_steps(tokens);
    before(t, tokens);
    const float *const lhs_step = product.lhs + (t - begin) / kBlocking.step_depth * kBlockFloats;
    const auto add = [&](int64_t n, int64_t j, const float *panel) __attribute__((always_inline)) {
      const Engine::Lhs block = Engine::packed_lhs(lhs_step + n / kBlocking.block_rows * product.block_pitch);
      Engine::multiply<Columns::kOfActivation>({rank - n, columns - j, steps}, block, panel,
                                               {sums + j * rows + n * kPanelColumns, kPanelColumns}, t > begin);
    };
    const lily_matrix tile = submatrix(product.rhs, t, 0);
    const uint8_t *const keeps_tile = product.keeps == nullptr ? nullptr : product.keeps + t;
    Mask mask = {};
    if (product.dropout.drops()) {
      mask = compute_mask(product.dropout, t, tokens, product.first_column, columns, scratch.mask);
      if (keeps_tile != nullptr) drop_rows(tokens, keeps_tile, mask);
    }
    const auto pack = [&](int64_t j, int64_t count, int64_t panel_pitch) __attribute__((always_inline)) {
      if (mask.bits != nullptr) {
        Engine::pack_kept(submatrix(tile, 0, j), tokens, count, mask.from_column(j), packed, panel_pitch);
      } else {
        Engine::pack<Columns::kOfActivation>(submatrix(tile, 0, j), tokens, count, 1.0f, keeps_tile, packed,
                                             panel_pitch);
      }
    };
    if (rank <= kBlocking.by_panel_rank) {
      for (int64_t j = 0; j < columns; j += kPanelColumns) {
        pack(j, minimum(kPanelColumns, columns - j), 0);
        for (int64_t n = 0; n < rank; n += kBlocking.block_rows) add(n, j, packed);
      }
    } else {
      pack(0, columns, steps * kPanelFloats);
      for (int64_t n = 0; n < rank; n += kBlocking.block_rows) {
        for (int64_t j = 0; j < columns; j += kPanelColumns) {
          add(n, j, packed + j / kPanelColumns * steps * kPanelFloats);
        }
      }
    }
  }
}

// The same as outer_product, in pieces of the tokens whose sums are added in order.
template <typename Before>
LILY_INLINE void outer_product_in_pieces(const OuterProduct &product, const TokenPieces &pieces,
                                         const OuterScratch &scratch, Before before) {
  if constexpr (!kBlocking.many_tasks) {
    outer_product(product, scratch.sums, scratch, before);
    return;
  }
  const int64_t length = pieces.length(product.end - product.begin);
  OuterProduct piece = product;
  do {
    piece.end = minimum(product.end, piece.begin + length);
    const bool is_first = piece.begin == product.begin;
    outer_product(piece, is_first ? scratch.sums : scratch.piece_sums, scratch, before);
    if (!is_first) add_floats(sums_floats(product.rank, product.columns), scratch.piece_sums, scratch.sums);
    piece.begin += length;
    piece.lhs += length / kBlocking.step_depth * kBlockFloats;
  } while (piece.begin < product.end);
}

// The sums of row i, from column j on, which is a multiple of kRowColumns.
LILY_INLINE Engine::Row row_of_sums(int64_t rank, const float *sums, int64_t i, int64_t j) {
  constexpr int64_t kPanelColumns = kBlocking.panel;
  return Engine::load_sums(sums + j / kPanelColumns * kPanelColumns * sums_rows(rank) + i * kPanelColumns +
                           j % kPanelColumns);
}

// ---- Packed left operands ----

// Packs up to kTokenTile rows from `begin` on. `steps` are all steps of a block.
LILY_INLINE void pack_token_tile(const lily_matrix &matrix, int64_t begin, int64_t end, int64_t columns, float *packed,
                                 int64_t step, int64_t steps) {
  Engine::pack_lhs(submatrix(matrix, begin, 0), minimum(kTokenTile, end - begin), columns, packed + step * kBlockFloats,
                   steps * kBlockFloats);
}

void pack_lhs(const BackwardPass &pass, int64_t tile, float *) {
  const int64_t group = pass.groups.of_tile(tile), in_group = tile - pass.groups.first_tile(group);
  pack_token_tile(pass.lhs, pass.groups.begin(group) + in_group * kTokenTile, pass.groups.end(group), pass.stack.rank,
                  pass.lhs_packed, pass.groups.first_step(group) + in_group * (kTokenTile / kBlocking.step_depth),
                  pass.groups.step_count());
}

void pack_d_hidden(const BackwardPass &pass, int64_t tile, float *) {
  const lily_problem &problem = pass.call->problem;
  pack_token_tile(pass.d_hidden_lhs, tile * kTokenTile, problem.tokens, problem.rank, pass.lhs_packed,
                  tile * (kTokenTile / kBlocking.step_depth), block_steps(problem.tokens));
}

// ---- q ----

void pack_c(const BackwardPass &pass, int64_t piece, float *scratch) {
  const int64_t begin = pass.q.pack_tiles.begin(piece), columns = pass.q.pack_tiles.end(piece) - begin;
  Engine::pack_combined_transposed(pass.stack, {0, 0, pass.stack.rank, begin, columns},
                                   pass.q.packed + begin / kBlocking.step_depth * kPanelFloats,
                                   block_steps(pass.call->problem.d_out) * kPanelFloats, scratch);
}

void q_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const lily_problem &problem = pass.call->problem;
  const RankTile tile = pass.q.tile(task, problem.tokens);
  if (pass.has_gradient != nullptr) {  // there is one group
    for (int64_t t = tile.token_begin; t < tile.token_end; ++t) {
      clear(pass.q_partials.row(0, t) + tile.rank_begin, round_up(tile.rank_end, kLanes) - tile.rank_begin);
    }
    return;
  }
  const LhsRows dy = {pass.dy_rows.matrix, problem.tokens, problem.d_out};
  if (pass.q.packs_own) {
    float *const copy = scratch, *const combined_scratch = copy + kCopyFloats;
    float *const packed = combined_scratch + Engine::combined_scratch_floats(kBlocking.chunk_depth);
    const auto pack_own = [&](int64_t k, int64_t end, float *out) __attribute__((always_inline)) {
      Engine::pack_combined_transposed(pass.stack, {0, tile.rank_begin, tile.ranks(), k, end - k}, out,
                                       block_steps(end - k) * kPanelFloats, combined_scratch);
    };
    multiply_rows_packing(tile, dy, pass.q_partials, packed, copy, pack_own);
    return;
  }
  multiply_rows_by_packed(pass.q, tile, dy, pass.q_partials, scratch);
}

// ---- dy pass ----

// Calls body(split, begin, end) for the parts of the splits of d_out that lie in the given columns.
template <typename Body>
LILY_INLINE void for_splits(const BackwardPass &pass, int64_t begin, int64_t columns, const Body &body) {
  for (int64_t split = begin / pass.dy.splits.width; pass.dy.splits.begin(split) < begin + columns; ++split) {
    body(split, maximum(begin, pass.dy.splits.begin(split)), minimum(begin + columns, pass.dy.splits.end(split)));
  }
}

// The operand of q for one group and the columns [begin, begin + columns) of d_out: C^T as rhs. With few tokens
// (`exchanges`) the rows of C are the left operand instead, and dy^T is packed.
struct QOperand {
  const float *combined;
  int64_t rank;
  int64_t begin, columns;
  bool exchanges;
};

// Adds the columns [begin, end) of d_out of a split to q of few tokens: q^T = C dy^T. A template, because an engine
// that does not exchange operands lacks the functions.
template <typename E>
LILY_INLINE void add_q_exchanged(const QOperand &c, const LhsRows &dy, int64_t begin, int64_t end, const Sums &q,
                                 bool accumulate, float *packed) {
  constexpr int64_t kBlockRows = kBlocking.block_rows, kPanelColumns = kBlocking.panel;
  E::pack_few_tokens(dy.matrix, dy.rows, begin, end, true, packed);
  for (int64_t n = 0; n < c.rank; n += kBlockRows) {
    // The sums of q^T, which continue the sums of the chunk before.
    alignas(64) float sums[kBlockRows * kPanelColumns];
    const int64_t rows = minimum(kBlockRows, q.pitch - n);
    for (int64_t i = 0; accumulate && i < dy.rows; ++i) {
      for (int64_t j = 0; j < rows; ++j) sums[j * kPanelColumns + i] = q.data[i * q.pitch + n + j];
    }
    E::template multiply<Columns::kInOrder, Order::kExchanged>(
        {c.rank - n, dy.rows, block_steps(end - begin)}, E::combined_lhs(c.combined, c.columns, n, begin - c.begin),
        packed, {sums, kPanelColumns}, accumulate);
    for (int64_t i = 0; i < dy.rows; ++i) {
      for (int64_t j = 0; j < rows; ++j) q.data[i * q.pitch + n + j] = sums[j * kPanelColumns + i];
    }
  }
}

// Adds q of the tokens [t, t + tokens) of that group.
template <typename E = Engine>
LILY_INLINE void add_q(const BackwardPass &pass, const QOperand &c, int64_t t, int64_t tokens, float *copy) {
  const PackedRhs rhs = {c.combined, block_steps(c.columns) * kPanelFloats, c.rank};
  const LhsRows dy = {submatrix(pass.dy_rows.matrix, t, 0), tokens, pass.call->problem.d_out};
  for_splits(pass, c.begin, c.columns, [&](int64_t split, int64_t begin, int64_t end) __attribute__((always_inline)) {
    const Sums q = {pass.q_partials.row(split, t), pass.q_partials.pitch};
    for (int64_t k = begin; k < end; k += kBlocking.chunk_depth) {
      const int64_t k_end = minimum(end, k + kBlocking.chunk_depth);
      const bool accumulate = k > pass.dy.splits.begin(split);
      if constexpr (E::kBlocking.exchanges) {
        if (c.exchanges) {
          add_q_exchanged<E>(c, dy, k, k_end, q, accumulate, copy);
          continue;
        }
      }
      for (int64_t i = 0; i < tokens; i += kBlocking.block_rows) {
        multiply_row_block(dy, i, k, k_end, rhs.from_step((k - c.begin) / kBlocking.step_depth),
                           {q.data + i * q.pitch, q.pitch}, accumulate, copy);
      }
    }
  });
}

// s C^T for one group and some columns.
template <typename E = Engine>
LILY_INLINE QOperand q_operand(const BackwardPass &pass, int64_t group, int64_t begin, int64_t columns, float *combined,
                               float *scratch) {
  const ExpertStack &stack = pass.stack;
  if constexpr (E::kBlocking.exchanges) {
    const int64_t tokens = pass.groups.end(group) - pass.groups.begin(group);
    if (!stack.transposed && tokens <= kBlocking.few_tokens && tokens < stack.rank) {
      E::copy_combined(stack, group, begin, columns, combined);
      return {combined, stack.rank, begin, columns, true};
    }
  }
  E::pack_combined_transposed(stack, {group, 0, stack.rank, begin, columns}, combined,
                              block_steps(columns) * kPanelFloats, scratch);
  return {combined, stack.rank, begin, columns, false};
}

// dB of LoRA, whose b is [d_out, r].
LILY_INLINE void write_transposed_db(const BackwardPass &pass, int64_t begin, int64_t columns, const float *sums) {
  for (int64_t j = 0; j < columns; j += kBlocking.panel) {
    Engine::write_transposed(pass.stack.rank, minimum(kBlocking.panel, columns - j),
                             sums + j * sums_rows(pass.stack.rank), pass.stack.scaling,
                             submatrix(pass.call->db, begin + j, 0));
  }
}

// What depends on D_g in the columns [begin, end) of one split: dw, and dB or its deferred partials. `sums` starts at
// `begin`.
LILY_INLINE void write_d_weights_and_db(const BackwardPass &pass, int64_t split, int64_t group, int64_t begin,
                                        int64_t end, const float *sums) {
  const ExpertStack &stack = pass.stack;
  const int64_t columns = end - begin;
  const int64_t rank = stack.rank, b_pitch = stack.b.pitch;
  const bool needs_d_weights = pass.needs_d_weights;
  if (stack.transposed) {
    if (pass.needs_db) write_transposed_db(pass, begin, columns, sums);
    return;
  }
  const bool whole = pass.defers_d(), summed = pass.db_sums.data != nullptr;
  const lily_matrix target = pass.db_target();
  const int64_t out_pitch = target.pitch;
  // Only the first group may overwrite the old contents; later groups add to it.
  const bool accumulate = target.accumulate != 0 || (group > 0 && !whole);
  Engine::with_type(stack.b.dtype, [&](auto parameter) __attribute__((always_inline)) {
    Engine::with_type(target.dtype, [&](auto element) __attribute__((always_inline)) {
      using B = decltype(parameter);
      using E = decltype(element);
      for (int64_t e = 0; e < stack.experts; ++e) {
        const bool writes = pass.needs_db && (!whole || e == 0);
        const Vector factor =
            broadcast(whole ? stack.scaling : stack.scaling * stack.weights[group * stack.experts + e]);
        const B *b = static_cast<const B *>(stack.b.data) + e * rank * b_pitch + begin;
        E *out = static_cast<E *>(target.data) + (whole ? group : e) * rank * out_pitch + begin;
        Engine::Row products[Engine::kDotChains] = {};
        for (int64_t i = 0; i < rank; ++i) {
          const B *const b_row = b + i * b_pitch;
          E *const out_row = out + i * out_pitch;
          for_rows(columns, [=, &products](int64_t j, int64_t count) __attribute__((always_inline)) {
            const Engine::Row d = row_of_sums(rank, sums, i, j);
            if (needs_d_weights) {
              Engine::add_product(Engine::load_row(b_row + j, count), d,
                                  products[j / Engine::kRowColumns % Engine::kDotChains]);
            }
            if (writes) Engine::write_row(out_row + j, factor, d, count, accumulate);
          });
        }
        if (needs_d_weights) {
          double sum = 0.0;
          for (const Engine::Row &chain : products) sum += Engine::sum_of(chain);
          double &partial = pass.d_weights.partials[(split * pass.groups.count + group) * stack.experts + e];
          partial = (begin > pass.dy.splits.begin(split) ? partial : 0.0) + stack.scaling * sum;
        }
      }
    });
  });
  if (summed && pass.needs_db && group == pass.groups.count - 1) {
    write_rows(stack.experts * rank, columns, static_cast<const float *>(target.data) + begin, target.pitch, 1.0f,
               submatrix(pass.call->db, 0, begin), pass.call->db.accumulate != 0);
  }
}

// The scratch of a tile of the dy pass.
struct DyTileScratch {
  OuterScratch outer;
  float *copy;  // of a left operand
  float *combined, *combined_scratch;
};
LILY_INLINE DyTileScratch take_dy_tile_scratch(const BackwardPass &pass, Scratch &scratch) {
  const int64_t rank = pass.stack.rank, widest = pass.dy.tile_columns;
  DyTileScratch parts = {};
  parts.outer = take_outer_scratch(pass.groups.pieces, pass.groups.tokens, rank, widest, false, scratch);
  parts.copy = scratch.take(kCopyFloats);
  parts.combined = scratch.take(pass.dy.computes_q ? packed_floats(widest, rank) : 0);
  parts.combined_scratch = scratch.take(Engine::combined_scratch_floats(widest));
  return parts;
}

// The columns [begin, begin + columns), whose sums of D fit the cache.
LILY_INLINE void dy_tile(const BackwardPass &pass, int64_t begin, int64_t columns, float *scratch) {
  const int64_t rank = pass.stack.rank;
  const bool needs_q = pass.needs_d_hidden && pass.dy.computes_q;
  Scratch tile_scratch(scratch);
  const DyTileScratch parts = take_dy_tile_scratch(pass, tile_scratch);
  for (int64_t group = 0; group < pass.groups.count; ++group) {
    const int64_t group_begin = pass.groups.begin(group), group_end = pass.groups.end(group);
    const bool has_gradient =
        group_begin < group_end && (pass.has_gradient == nullptr || pass.has_gradient[group_begin] != 0);
    QOperand c = {};
    if (needs_q && !has_gradient) {
      for_splits(pass, begin, columns, [&](int64_t split, int64_t, int64_t) __attribute__((always_inline)) {
        clear(pass.q_partials.row(split, group_begin), (group_end - group_begin) * pass.q_partials.pitch);
      });
    } else if (needs_q) {
      c = q_operand(pass, group, begin, columns, parts.combined, parts.combined_scratch);
    }
    const auto q = [&](int64_t t, int64_t tokens) __attribute__((always_inline)) {
      if (needs_q) add_q(pass, c, t, tokens, parts.copy);
    };
    if (!pass.needs_d_combined) {
      if (has_gradient) q(group_begin, group_end - group_begin);
      continue;
    }
    const OuterProduct d_combined = {.rank = rank,
                                     .lhs = pass.lhs_packed + pass.groups.first_step(group) * kBlockFloats,
                                     .block_pitch = pass.groups.step_count() * kBlockFloats,
                                     .rhs = submatrix(pass.dy_rows.matrix, 0, begin),
                                     .columns = columns,
                                     .begin = group_begin,
                                     .end = has_gradient ? group_end : group_begin,
                                     .keeps = nullptr};
    outer_product_in_pieces(d_combined, pass.groups.pieces, parts.outer, q);
    for_splits(pass, begin, columns, [&](int64_t split, int64_t from, int64_t to) __attribute__((always_inline)) {
      write_d_weights_and_db(pass, split, group, from, to, parts.outer.sums + (from - begin) * sums_rows(rank));
    });
  }
}

void dy_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const int64_t width = pass.dy.task_splits * pass.dy.splits.width;
  const int64_t end = minimum(pass.dy.splits.columns, (task + 1) * width);
  for (int64_t begin = task * width; begin < end; begin += pass.dy.tile_columns) {
    dy_tile(pass, begin, minimum(pass.dy.tile_columns, end - begin), scratch);
  }
}

// ---- dx and dA ----

void dx_pass(const BackwardPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const lily_problem &problem = pass.call->problem;
  const int64_t tile = task % pass.dx.columns.count, rank = problem.rank;
  const int64_t begin = pass.dx.columns.begin(tile), columns = pass.dx.columns.end(tile) - begin;
  const int64_t token_begin = task / pass.dx.columns.count * pass.dx.tile_tokens;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.dx.tile_tokens);
  const lily_matrix &lhs = pass.d_hidden_lhs;
  const RowProduct product = {
      lhs, lhs.pitch, rank, columns, rows_from(pass.dx_rows, 0, begin), pass.dx.slab, dropout_of(*pass.call), begin};
  const auto pack_a = [&](int64_t column, int64_t count, float *out) __attribute__((always_inline)) {
    Engine::pack<Columns::kOfActivation>(submatrix(pass.call->a, 0, begin + column), rank, count, 1.0f, nullptr, out,
                                         block_steps(rank) * kPanelFloats);
  };
  add_packed_product(product, token_begin, token_end, pass.dx.columns.width, scratch, pack_a);
}

LILY_INLINE OuterScratch take_da_scratch(const BackwardPass &pass, Scratch &scratch) {
  const lily_problem &problem = pass.call->problem;
  return take_outer_scratch(pass.x.pieces, problem.tokens, problem.rank, pass.x.tiles.width, problem.dropout != 0,
                            scratch);
}

void da_pass(const BackwardPass &pass, int64_t tile, float *scratch) {
  const Engine::Scope scope;
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &da = pass.call->da;
  const int64_t rank = problem.rank;
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  Scratch task_scratch(scratch);
  const OuterScratch parts = take_da_scratch(pass, task_scratch);
  const float *const sums = parts.sums;
  const OuterProduct product = {.rank = rank,
                                .lhs = pass.lhs_packed,
                                .block_pitch = block_steps(problem.tokens) * kBlockFloats,
                                .rhs = submatrix(pass.x_rows.matrix, 0, begin),
                                .columns = columns,
                                .begin = 0,
                                .end = problem.tokens,
                                .keeps = pass.has_gradient,
                                .dropout = dropout_of(*pass.call),
                                .first_column = begin};
  outer_product_in_pieces(product, pass.x.pieces, parts, [](int64_t, int64_t) {});
  Engine::with_type(da.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    const bool accumulate = da.accumulate != 0;
    for (int64_t i = 0; i < rank; ++i) {
      E *const row = static_cast<E *>(da.data) + i * da.pitch + begin;
      for_rows(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        Engine::write_row(row + j, broadcast(1.0f), row_of_sums(rank, sums, i, j), count, accumulate);
      });
    }
  });
}

int64_t backward_scratch(const BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  Scratch dy(nullptr), da(nullptr);
  take_dy_tile_scratch(pass, dy);
  take_da_scratch(pass, da);
  const int64_t q = kCopyFloats +
                    Engine::combined_scratch_floats(maximum(kBlocking.chunk_depth, pass.q.pack_tiles.width)) +
                    packed_floats(kBlocking.chunk_depth, pass.q.packs_own ? pass.q.rank_tiles.width : 1);
  const int64_t dx = packed_floats(problem.rank, pass.dx.columns.width) +
                     row_product_floats(problem.rank, pass.dx.slab, problem.dropout != 0);
  return maximum(maximum(maximum(dy.floats(), q), dx), maximum(da.floats(), d_router_scratch(pass)));
}

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
