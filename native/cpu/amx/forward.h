// The large products of the forward pass on AMX. The pass between them, routing, is that of the vector kernels.
//
//   pack_shrink   A^T as rhs, for all tasks of shrink. Tasks: pieces of d_in
//   shrink        h = x A^T, before phi. Tasks: tiles of tokens x tiles of r. A sum over d_in is one chain
//   expand        y (+)= lhs s C_g. Tasks: tiles of d_out x tiles of tokens
//
//   shrink_packed    [panel of r][step of d_in][2 tiles]
//   hidden_partials  [M rounded up to 32][rank_pitch], float32
//
// With few tokens, packing A would be most of the work. Each task of shrink packs x^T instead, and A is the left
// operand: h^T = A x^T has the same bits.
#pragma once

#include "cpu/amx/product.h"
#include "cpu/forward_direct.h"

namespace lily::cpu {
namespace {

LILY_INLINE BFloat16 *halves_at(float *scratch) { return reinterpret_cast<BFloat16 *>(scratch); }

// ---- y and dx: rows (+)= lhs rhs ----

struct RowProduct {
  lily_matrix lhs;      // bfloat16
  int64_t lhs_columns;  // rank, or more if zeros follow
  int64_t rank;
  int64_t columns;  // of out
  lily_matrix out;  // bfloat16
  int64_t slab;     // columns of rhs that the L2 cache holds, see expand_slab in plan.cc
};

LILY_INLINE int64_t run_columns(int64_t rank, int64_t slab) {
  return tile_steps(rank) * kStepDepth > kChunkDepth ? slab : kRunColumns;
}

// Floats of rhs for `columns` columns.
LILY_INLINE int64_t packed_floats(int64_t rank, int64_t columns) {
  return tile_steps(rank) * tile_steps(columns) * kStepHalves / 2;
}

// Besides rhs: the sums of 32 rows, and a copy of the rows of lhs.
LILY_INLINE int64_t row_product_floats(int64_t rank, int64_t slab) {
  return 32 * run_columns(rank, slab) + tile_steps(rank) * kStepHalves / 2;
}

LILY_INLINE void add_row_product(const RowProduct &product, int64_t begin, int64_t end, const BFloat16 *rhs,
                                 float *scratch) {
  const int64_t steps = tile_steps(product.rank), chunk_steps = kChunkDepth / kStepDepth;
  const int64_t run = run_columns(product.rank, product.slab);
  float *const sums = scratch;
  BFloat16 *const copy = halves_at(scratch + 32 * run);
  const ScaledMatrix<BFloat16> lhs = matrix_of(product.lhs, end, product.lhs_columns);
  for (int64_t slab = 0; slab < product.columns; slab += product.slab) {
    const int64_t slab_end = minimum(product.columns, slab + product.slab);
    for (int64_t t = begin; t < end; t += 32) {
      const int64_t rows = minimum(32, end - t);
      const TileLhs all_steps = lhs_of(lhs, t, 0, steps, false, copy);
      for (int64_t j = slab; j < slab_end; j += run) {
        const int64_t columns = minimum(run, slab_end - j);
        for (int64_t k = 0; k < steps; k += chunk_steps) {
          TileLhs chunk = all_steps;
          chunk.data += k * chunk.step_pitch;
          for (int64_t i = 0; i < columns; i += 32) {
            multiply_tiles(rows, 32, minimum(chunk_steps, steps - k), chunk,
                           rhs + ((j + i) / 32 * steps + k) * kStepHalves, sums + i, run, k > 0);
          }
        }
        for (int64_t i = 0; i < rows; ++i) {
          auto *const out = static_cast<BFloat16 *>(product.out.data) + (t + i) * product.out.pitch + j;
          for (int64_t n = 0; n < columns; n += 32) {
            const float *row = sums + i * run + n;
            write_row(out + n, broadcast(1.0f), Row{load(row), load(row + 16)}, columns - n,
                      product.out.accumulate != 0);
          }
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
  const int64_t column_bytes = tile_steps(product.rank) * kStepBytes / kBlockRows;
  const int64_t part = end - begin > kFewTokens
                           ? product.columns
                           : maximum(kRunColumns, kFewTokensBytes / column_bytes / kRunColumns * kRunColumns);
  BFloat16 *const packed = halves_at(scratch);
  for (int64_t column = 0; column < product.columns; column += part) {
    RowProduct product_of_part = product;
    product_of_part.columns = minimum(part, product.columns - column);
    product_of_part.out = submatrix(product.out, 0, column);
    pack(column, product_of_part.columns, packed);
    add_row_product(product_of_part, begin, end, packed, scratch + packed_floats(product.rank, width));
  }
}

// ---- h and q: rows times a packed operand ----

// sums = in * rhs for the rows [begin, end) and the columns [first, last), where rhs is packed for all of k:
// [panel][step of k][2 tiles]. 32 rows pass as many chunks of rhs as the L2 cache holds (`cached_depth`) before the
// next 32 follow.
LILY_INLINE void multiply_rows_by_packed(const lily_matrix &in, int64_t rows, int64_t depth, int64_t cached_depth,
                                         const BFloat16 *rhs, int64_t begin, int64_t end, int64_t first, int64_t last,
                                         float *sums, int64_t pitch, BFloat16 *copy) {
  const ScaledMatrix<BFloat16> matrix = matrix_of(in, rows, depth);
  for (int64_t group = 0; group < depth; group += cached_depth) {
    const int64_t group_end = minimum(depth, group + cached_depth);
    for (int64_t t = begin; t < end; t += 32) {
      for (int64_t k = group; k < group_end; k += kChunkDepth) {
        multiply_row_block(matrix, t, k, minimum(group_end, k + kChunkDepth), rhs + k / kStepDepth * kStepHalves,
                           tile_steps(depth) * kStepHalves, first, last, sums + t * pitch + first, pitch, k > 0, copy);
      }
    }
  }
}

// ---- Tasks ----

int64_t forward_scratch(const ForwardPass &pass) {
  const int64_t expand = packed_floats(pass.stack.rank, pass.expand_column_tiles.width) +
                         row_product_floats(pass.stack.rank, pass.expand_slab);
  return maximum(maximum(maximum(expand, 2 * kChunkFloats), kTileRows * pass.rank_pitch), direct_forward_scratch(pass));
}

void pack_shrink(const ForwardPass &pass, int64_t piece) {
  const lily_problem &problem = pass.call->problem;
  const int64_t begin = pass.shrink_pieces.begin(piece), depth = pass.shrink_pieces.end(piece) - begin;
  auto *const out = static_cast<BFloat16 *>(pass.shrink_packed) + begin / kStepDepth * kStepHalves;
  const int64_t panel_pitch = tile_steps(problem.d_in) * kStepHalves;
  with_scaled(submatrix(pass.call->a, 0, begin), problem.rank, depth, 1.0f,
              [&](const auto &a) __attribute__((always_inline)) {
                for (int64_t n = 0; n < problem.rank; n += 32) {
                  pack_rhs_transposed<Columns::kInOrder>(a, n, tile_steps(depth), out + n / 32 * panel_pitch);
                }
              });
}

// h^T = A x^T for 32 rows of A and at most 32 tokens.
LILY_INLINE void shrink_exchanged(const ForwardPass &pass, int64_t row, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const ScaledMatrix<BFloat16> x = matrix_of(pass.call->x, problem.tokens, problem.d_in);
  BFloat16 *const packed = halves_at(scratch + kChunkFloats);
  alignas(64) float sums[32 * 32];
  with_scaled(pass.call->a, problem.rank, problem.d_in, 1.0f, [&](const auto &a) __attribute__((always_inline)) {
    for (int64_t k = 0; k < problem.d_in; k += kChunkDepth) {
      const int64_t end = minimum(problem.d_in, k + kChunkDepth);
      pack_few_tokens(x, k, tile_steps(end - k), k == 0, packed);
      multiply_row_block(a, row, k, end, packed, 0, 0, problem.tokens, sums, 32, k > 0, halves_at(scratch));
    }
  });
  for (int64_t t = 0; t < problem.tokens; ++t) {
    float *out = pass.hidden_partials + t * pass.rank_pitch + row;
    for (int64_t i = 0; i < minimum(32, problem.rank - row); ++i) out[i] = sums[i * 32 + t];
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const TileScope tiles;
  const lily_problem &problem = pass.call->problem;
  const int64_t tile = task / pass.shrink_token_tiles;
  const int64_t first = pass.rank_tiles.begin(tile), last = pass.rank_tiles.end(tile);
  if (pass.shrink_exchanges) {
    for (int64_t row = first; row < last; row += 32) shrink_exchanged(pass, row, scratch);
    return;
  }
  const int64_t begin = task % pass.shrink_token_tiles * pass.shrink_tile_tokens;
  const int64_t end = minimum(problem.tokens, begin + pass.shrink_tile_tokens);
  multiply_rows_by_packed(pass.call->x, problem.tokens, problem.d_in, pass.shrink_depth,
                          static_cast<const BFloat16 *>(pass.shrink_packed), begin, end, first, last,
                          pass.hidden_partials, pass.rank_pitch, halves_at(scratch));
}

// Packs the columns [begin, begin + columns) of s C_g.
LILY_INLINE void pack_combined(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns, BFloat16 *out) {
  const int64_t steps = tile_steps(stack.rank);
  if (stack.transposed) {
    with_scaled(submatrix(stack.b, begin, 0), columns, stack.rank, stack.scaling,
                [&](const auto &b) __attribute__((always_inline)) {
                  for (int64_t j = 0; j < columns; j += 32) {
                    pack_rhs_transposed<Columns::kSplit>(b, j, steps, out + j / 32 * steps * kStepHalves);
                  }
                });
    return;
  }
  with_combined(stack, group, begin, columns, [&](const auto &combined) __attribute__((always_inline)) {
    pack_rhs<Columns::kSplit>(combined, steps, out, steps * kStepHalves);
  });
}

void expand(const ForwardPass &pass, int64_t task, float *scratch) {
  const TileScope tiles;
  const Partition &column_tiles = pass.expand_column_tiles;
  const int64_t tile = task % column_tiles.count, rank = pass.stack.rank;
  const int64_t begin = column_tiles.begin(tile), columns = column_tiles.end(tile) - begin;
  const int64_t token_begin = task / column_tiles.count * pass.expand_tile_tokens;
  const int64_t token_end = minimum(pass.groups.tokens, token_begin + pass.expand_tile_tokens);
  const RowProduct product = {pass.lhs, rank, rank, columns, submatrix(pass.call->y, 0, begin), pass.expand_slab};
  for (int64_t group = pass.groups.of_token(token_begin); group < pass.groups.count; ++group) {
    if (pass.groups.begin(group) >= token_end) break;
    const int64_t from = maximum(token_begin, pass.groups.begin(group));
    const int64_t to = minimum(token_end, pass.groups.end(group));
    if (from >= to) continue;
    add_packed_product(product, from, to, column_tiles.width, scratch,
                       [&](int64_t column, int64_t count, BFloat16 *out) __attribute__((always_inline)) {
                         pack_combined(pass.stack, group, begin + column, count, out);
                       });
  }
}

}  // namespace
}  // namespace lily::cpu
