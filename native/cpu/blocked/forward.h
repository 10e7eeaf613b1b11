// The large products of the forward pass in blocks. The vector kernels compute routing between them.
//
//   pack_shrink   A^T as rhs, for all tasks of shrink. Tasks: pieces of d_in
//   shrink        h = x A^T, before phi. Tasks: tiles of tokens x tiles of r
//   expand        y (+)= lhs s C_g. Tasks: tiles of d_out x tiles of tokens
//
//   shrink.packed    [panel of r][step of d_in]
//   hidden_partials  [M rounded up to block_rows][pitch], float32
//
// If there is one tile of tokens, no task of shrink uses the columns of A^T of another, and each task packs its own,
// one chunk at a time. With few tokens, packing A would be most of the work. An engine that exchanges operands packs
// x^T instead, and A is the left operand: h^T = A x^T has the same bits.
#pragma once

#include "cpu/blocked/product.h"

namespace lily::cpu {
namespace blocked {
namespace {

int64_t forward_scratch(const ForwardPass &pass) {
  const int64_t expand = packed_floats(pass.stack.rank, pass.expand.columns.width) +
                         row_product_floats(pass.stack.rank, pass.expand.slab, false);
  const int64_t shrink =
      kCopyFloats + packed_floats(kBlocking.chunk_depth, pass.shrink.packs_own ? pass.shrink.rank_tiles.width : 1);
  return maximum(maximum(expand, shrink), kTileRows * pass.hidden_partials.pitch);
}

void pack_shrink(const ForwardPass &pass, int64_t piece, float *) {
  const lily_problem &problem = pass.call->problem;
  const int64_t begin = pass.shrink.pack_tiles.begin(piece), depth = pass.shrink.pack_tiles.end(piece) - begin;
  Engine::pack_transposed<Columns::kInOrder>(submatrix(pass.call->a, 0, begin), problem.rank, depth, 1.0f,
                                             pass.shrink.packed + begin / kBlocking.step_depth * kPanelFloats,
                                             block_steps(problem.d_in) * kPanelFloats);
}

// h^T = A x^T for a block of rows of A and few tokens.
template <typename E = Engine>
LILY_INLINE void shrink_exchanged(const ForwardPass &pass, int64_t row, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const Dropout dropout = dropout_of(*pass.call);
  float *const copy = scratch, *const packed = scratch + kCopyFloats;
  alignas(64) float sums[kBlocking.block_rows * kBlocking.panel];
  for (int64_t k = 0; k < problem.d_in; k += kBlocking.chunk_depth) {
    const int64_t end = minimum(problem.d_in, k + kBlocking.chunk_depth);
    if (dropout.drops()) {
      alignas(64) float memory[mask_floats(kBlocking.few_tokens, kBlocking.chunk_depth)];
      const Mask mask = compute_mask(dropout, 0, problem.tokens, k, end - k, memory);
      E::pack_kept_tokens(submatrix(pass.x_rows.matrix, 0, k), problem.tokens, end - k, mask, k == 0, packed);
    } else {
      E::pack_few_tokens(pass.x_rows.matrix, problem.tokens, k, end, k == 0, packed);
    }
    multiply_row_block<Order::kExchanged>({pass.call->a, problem.rank, problem.d_in}, row, k, end,
                                          {packed, 0, problem.tokens}, {sums, kBlocking.panel}, k > 0, copy);
  }
  for (int64_t t = 0; t < problem.tokens; ++t) {
    float *out = pass.hidden_partials.row(0, t) + row;
    const int64_t rows = minimum(kBlocking.block_rows, problem.rank - row);
    for (int64_t i = 0; i < rows; ++i) out[i] = sums[i * kBlocking.panel + t];
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const lily_problem &problem = pass.call->problem;
  const RankTile tile = pass.shrink.tile(task, problem.tokens);
  if constexpr (kBlocking.exchanges) {
    if (pass.shrink_exchanges) {
      for (int64_t row = tile.rank_begin; row < tile.rank_end; row += kBlocking.block_rows) {
        shrink_exchanged(pass, row, scratch);
      }
      return;
    }
  }
  const LhsRows x = {pass.x_rows.matrix, problem.tokens, problem.d_in, dropout_of(*pass.call)};
  if (pass.shrink.packs_own) {
    const auto pack_a = [&](int64_t k, int64_t end, float *packed) __attribute__((always_inline)) {
      Engine::pack_transposed<Columns::kInOrder>(submatrix(pass.call->a, tile.rank_begin, k), tile.ranks(), end - k,
                                                 1.0f, packed, block_steps(end - k) * kPanelFloats);
    };
    multiply_rows_packing(tile, x, pass.hidden_partials, scratch + kCopyFloats, scratch, pack_a);
    return;
  }
  multiply_rows_by_packed(pass.shrink, tile, x, pass.hidden_partials, scratch);
}

void expand(const ForwardPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const Partition &column_tiles = pass.expand.columns;
  const int64_t tile = task % column_tiles.count, rank = pass.stack.rank;
  const int64_t begin = column_tiles.begin(tile), columns = column_tiles.end(tile) - begin;
  const int64_t token_begin = task / column_tiles.count * pass.expand.tile_tokens;
  const int64_t token_end = minimum(pass.groups.tokens, token_begin + pass.expand.tile_tokens);
  const RowProduct product = {pass.lhs, rank, rank, columns, rows_from(pass.y_rows, 0, begin), pass.expand.slab};
  for (int64_t group = pass.groups.of_token(token_begin); group < pass.groups.count; ++group) {
    if (pass.groups.begin(group) >= token_end) break;
    const int64_t from = maximum(token_begin, pass.groups.begin(group));
    const int64_t to = minimum(token_end, pass.groups.end(group));
    if (from >= to) continue;
    add_packed_product(product, from, to, column_tiles.width, scratch,
                       [&](int64_t column, int64_t count, float *out) __attribute__((always_inline)) {
                         Engine::pack_combined(pass.stack, group, begin + column, count, out);
                       });
  }
}

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
