// The two products of the blocked passes whose left operand is rows of an activation:
//
//   add_packed_product       out (+)= lhs rhs, rhs packed by the task          (y, dx)
//   multiply_rows_by_packed  sums = lhs rhs, rhs packed before for all tasks   (h, q)
//
// No cut of rows or columns into blocks or tasks changes a result; k is cut into chunks of chunk_depth.
#pragma once

#include "cpu/blocked/engine.h"
#include "cpu/dropout.h"
#include "cpu/scratch.h"

namespace lily::cpu {
namespace {

// Floats of the copy of a left operand, one chunk of k.
constexpr int64_t kCopyFloats = Engine::lhs_floats(kBlocking.chunk_depth / kBlocking.step_depth);

// Calls body(j, count) for j = 0, kRowColumns, ... `count` is the constant kRowColumns, except for a last, partial row
// of registers; compare for_vectors.
template <typename Body>
LILY_INLINE void for_rows(int64_t columns, const Body &body) {
  int64_t j = 0;
  for (; j + Engine::kRowColumns <= columns; j += Engine::kRowColumns) body(j, Engine::kRowColumns);
  if (j < columns) body(j, columns - j);
}

// ---- y and dx: rows (+)= lhs rhs ----

struct RowProduct {
  lily_matrix lhs;
  int64_t lhs_columns;  // rank, or more if zeros follow
  int64_t rank;
  int64_t columns;  // of out
  TokenRows out;
  int64_t slab;  // columns of rhs that the L2 cache holds; row_tiles in plan/ chooses it
  // Dropout of dx; the mask begins at the first token.
  Dropout dropout = {};
  int64_t first_column = 0;
};

LILY_INLINE int64_t run_columns(int64_t rank, int64_t slab) {
  return round_up(rank, kBlocking.step_depth) > kBlocking.chunk_depth ? slab : kBlocking.run_columns;
}

// Floats of a packed rhs of that many k and columns.
LILY_INLINE int64_t packed_floats(int64_t depth, int64_t columns) {
  return block_steps(depth) * block_panels(columns) * kPanelFloats;
}

// Besides rhs: the sums of a block of rows, their mask, and a copy of the rows of lhs.
struct RowProductScratch {
  float *sums, *mask, *copy;
};
LILY_INLINE RowProductScratch take_row_product_scratch(int64_t rank, int64_t slab, bool drops, Scratch &scratch) {
  const int64_t run = run_columns(rank, slab);
  RowProductScratch parts = {};
  parts.sums = scratch.take(kBlocking.block_rows * run);
  parts.mask = scratch.take(drops ? mask_floats(kBlocking.block_rows, run) : 0);
  parts.copy = scratch.take(Engine::lhs_floats(block_steps(rank)));
  return parts;
}
LILY_INLINE int64_t row_product_floats(int64_t rank, int64_t slab, bool drops) {
  Scratch scratch(nullptr);
  take_row_product_scratch(rank, slab, drops, scratch);
  return scratch.floats();
}

// out[i][j] (+)= sums[i][j], where the columns belong to an activation.
LILY_INLINE void write_block(int64_t rows, int64_t columns, const float *sums, int64_t pitch, const TokenRows &out) {
  Engine::with_activation(out.matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    const bool accumulate = out.matrix.accumulate != 0;
    for (int64_t i = 0; i < rows; ++i) {
      auto *const row = static_cast<decltype(element) *>(out.matrix.data) + out.of(i) * out.matrix.pitch;
      for_rows(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        Engine::write_row(row + j, broadcast(1.0f), Engine::load_sums(sums + i * pitch + j), count, accumulate);
      });
    }
  });
}

// The same where the mask keeps an element. A dropped one is left alone if `out` accumulates, and 0 otherwise.
LILY_INLINE void write_kept_block(int64_t rows, int64_t columns, const float *sums, int64_t pitch, const Mask &mask,
                                  const lily_matrix &out) {
  Engine::with_activation(out.dtype, [&](auto element) __attribute__((always_inline)) {
    const bool accumulate = out.accumulate != 0;
    for (int64_t i = 0; i < rows; ++i) {
      auto *const row = static_cast<decltype(element) *>(out.data) + i * out.pitch;
      const uint8_t *const kept = mask.row(i);
      for_rows(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        Engine::write_kept_row(row + j, kept, j, Engine::load_sums(sums + i * pitch + j), count, accumulate);
      });
    }
  });
}

LILY_INLINE void add_row_product(const RowProduct &product, int64_t begin, int64_t end, const float *rhs,
                                 float *scratch) {
  const int64_t steps = block_steps(product.rank), chunk_steps = kBlocking.chunk_depth / kBlocking.step_depth;
  const int64_t run = run_columns(product.rank, product.slab);
  Scratch task_scratch(scratch);
  const bool drops = product.dropout.drops();
  const RowProductScratch parts = take_row_product_scratch(product.rank, product.slab, drops, task_scratch);
  float *const sums = parts.sums;
  for (int64_t slab = 0; slab < product.columns; slab += product.slab) {
    const int64_t slab_end = minimum(product.columns, slab + product.slab);
    for (int64_t t = begin; t < end; t += kBlocking.block_rows) {
      const int64_t rows = minimum(kBlocking.block_rows, end - t);
      const Engine::Lhs all_steps = Engine::lhs(product.lhs, end, product.lhs_columns, t, 0, steps, false, parts.copy);
      for (int64_t j = slab; j < slab_end; j += run) {
        const int64_t columns = minimum(run, slab_end - j);
        const TokenRows rows_out = in_order(rows_from(product.out, t, j), rows);
        const lily_matrix &out = rows_out.matrix;
        const bool is_listed = rows_out.listed != nullptr;
        if (kBlocking.prefetches && !is_listed) prefetch(rows, columns, out);
        if (steps <= chunk_steps && !is_listed && !drops && Engine::adds_in_place(out, columns)) {
          for (int64_t i = 0; i < columns; i += kBlocking.panel) {
            Engine::multiply<Columns::kOfActivation>(
                {rows, columns - i, steps}, all_steps, rhs + (j + i) / kBlocking.panel * steps * kPanelFloats,
                {static_cast<float *>(out.data) + i, out.pitch}, out.accumulate != 0);
          }
          continue;
        }
        for (int64_t k = 0; k < steps; k += chunk_steps) {
          const Engine::Lhs chunk = Engine::from_step(all_steps, k);
          for (int64_t i = 0; i < columns; i += kBlocking.panel) {
            Engine::multiply<Columns::kOfActivation>({rows, columns - i, minimum(chunk_steps, steps - k)}, chunk,
                                                     rhs + ((j + i) / kBlocking.panel * steps + k) * kPanelFloats,
                                                     {sums + i, run}, k > 0);
          }
        }
        if (drops) {
          const Mask mask = compute_mask(product.dropout, t, rows, product.first_column + j, columns, parts.mask);
          write_kept_block(rows, columns, sums, run, mask, out);
        } else {
          write_block(rows, columns, sums, run, rows_out);
        }
      }
    }
  }
}

// Packs rhs and adds the product; pack(column, columns, out) packs a part of rhs. With few tokens each part is used
// once, so it is small enough to stay in the L1 cache. `width` is the widest product.columns of the pass.
template <typename Pack>
LILY_INLINE void add_packed_product(const RowProduct &product, int64_t begin, int64_t end, int64_t width,
                                    float *scratch, const Pack &pack) {
  constexpr int64_t kFewTokensBytes = 32 << 10;
  const int64_t run = kBlocking.run_columns;
  const int64_t column_bytes = block_steps(product.rank) * kBlocking.panel_bytes / kBlocking.panel;
  const int64_t part =
      end - begin > kBlocking.few_tokens ? product.columns : maximum(run, kFewTokensBytes / column_bytes / run * run);
  for (int64_t column = 0; column < product.columns; column += part) {
    RowProduct product_of_part = product;
    product_of_part.columns = minimum(part, product.columns - column);
    product_of_part.out = rows_from(product.out, 0, column);
    product_of_part.first_column += column;
    pack(column, product_of_part.columns, scratch);
    add_row_product(product_of_part, begin, end, scratch, scratch + packed_floats(product.rank, width));
  }
}

// ---- h and q: rows times a packed operand ----

// Prefetches part `part` of `parts` of the first rows and columns of a matrix: whole cache lines of every row.
LILY_INLINE void prefetch_part(int64_t rows, int64_t columns, const lily_matrix &matrix, int64_t part, int64_t parts) {
  const int64_t width = round_up((columns + parts - 1) / parts, 64 / element_bytes(matrix)), first = part * width;
  prefetch(rows, minimum(width, columns - first), submatrix(matrix, 0, first));
}

// Rows of a left operand, in place.
struct LhsRows {
  lily_matrix matrix;  // rows x depth
  int64_t rows;
  int64_t depth;  // k
  Dropout dropout = {};
};

// A block of these rows, k in [begin, end).
LILY_INLINE Engine::Lhs lhs_block(const LhsRows &lhs, int64_t row, int64_t begin, int64_t end, bool reused,
                                  float *copy) {
  const int64_t steps = block_steps(end - begin), rows = minimum(kBlocking.block_rows, lhs.rows - row);
  if (!lhs.dropout.drops()) return Engine::lhs(lhs.matrix, lhs.rows, end, row, begin, steps, reused, copy);
  alignas(64) float memory[mask_floats(kBlocking.block_rows, kBlocking.chunk_depth)];
  const Mask mask = compute_mask(lhs.dropout, row, rows, begin, end - begin, memory);
  return Engine::kept_lhs(submatrix(lhs.matrix, row, begin), rows, end - begin, mask, copy);
}

// Columns of a packed right operand, from some step of k on.
struct PackedRhs {
  const float *panels;
  int64_t panel_pitch;
  int64_t columns;

  // The same columns, later k.
  LILY_INLINE PackedRhs from_step(int64_t step) const { return {panels + step * kPanelFloats, panel_pitch, columns}; }
};

// sums (+)= lhs rhs for the block of rows from `row` on and k in [begin, end): `sums` starts at that row, and `rhs` at
// that k. The rows that the next block copies are prefetched beside the panels: their runs are too short, and often in
// a page each, for the hardware prefetcher.
template <Order kOrder = Order::kOfProblem>
LILY_INLINE void multiply_row_block(const LhsRows &lhs, int64_t row, int64_t begin, int64_t end, const PackedRhs &rhs,
                                    const Sums &sums, bool accumulate, float *copy) {
  const int64_t steps = block_steps(end - begin);
  const bool reused = rhs.columns > 2 * kBlocking.panel;
  const Engine::Lhs block = lhs_block(lhs, row, begin, end, reused, copy);
  const int64_t next = row + kBlocking.block_rows;
  const bool prefetches = kBlocking.prefetches && reused && next < lhs.rows;
  for (int64_t n = 0; n < rhs.columns; n += kBlocking.panel) {
    const int64_t panel = n / kBlocking.panel;
    if (prefetches) {
      prefetch_part(minimum(kBlocking.block_rows, lhs.rows - next), end - begin, submatrix(lhs.matrix, next, begin),
                    panel, block_panels(rhs.columns));
    }
    Engine::multiply<Columns::kInOrder, kOrder>({minimum(kBlocking.block_rows, lhs.rows - row), rhs.columns - n, steps},
                                                block, rhs.panels + panel * rhs.panel_pitch,
                                                {sums.data + n, sums.pitch}, accumulate);
  }
}

// A tile of sums = lhs rhs, where rhs is packed for all of k: [panel][step of k]. A block of rows passes as many chunks
// of rhs as the L2 cache holds (`cached_depth`) before the next block follows.
LILY_INLINE void multiply_rows_by_packed(const RankProduct &product, const RankTile &tile, const LhsRows &lhs,
                                         const RowPartials &sums, float *copy) {
  const int64_t panel_pitch = block_steps(lhs.depth) * kPanelFloats;
  const PackedRhs rhs = {product.packed + tile.rank_begin / kBlocking.panel * panel_pitch, panel_pitch, tile.ranks()};
  for (int64_t group = 0; group < lhs.depth; group += product.cached_depth) {
    const int64_t group_end = minimum(lhs.depth, group + product.cached_depth);
    for (int64_t t = tile.token_begin; t < tile.token_end; t += kBlocking.block_rows) {
      const Sums row_sums = {sums.row(0, t) + tile.rank_begin, sums.pitch};
      for (int64_t k = group; k < group_end; k += kBlocking.chunk_depth) {
        multiply_row_block(lhs, t, k, minimum(group_end, k + kBlocking.chunk_depth),
                           rhs.from_step(k / kBlocking.step_depth), row_sums, k > 0, copy);
      }
    }
  }
}

// The same where no other task uses these columns of rhs: pack(k, end, packed) packs them, k in [k, end), and the rows
// use them at once.
template <typename Pack>
LILY_INLINE void multiply_rows_packing(const RankTile &tile, const LhsRows &lhs, const RowPartials &sums, float *packed,
                                       float *copy, const Pack &pack) {
  for (int64_t k = 0; k < lhs.depth; k += kBlocking.chunk_depth) {
    const int64_t end = minimum(lhs.depth, k + kBlocking.chunk_depth);
    pack(k, end, packed);
    const PackedRhs rhs = {packed, block_steps(end - k) * kPanelFloats, tile.ranks()};
    for (int64_t t = 0; t < lhs.rows; t += kBlocking.block_rows) {
      multiply_row_block(lhs, t, k, end, rhs, {sums.row(0, t) + tile.rank_begin, sums.pitch}, k > 0, copy);
    }
  }
}

}  // namespace
}  // namespace lily::cpu
