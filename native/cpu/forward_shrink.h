// Shrink: h = x A^T, before phi. A task computes one split of d_in for one tile of tokens, or all splits in order for a
// tile of tokens and of the rank.
//
//   x                M x d_in, pitched; rows may be listed. With dropout, the elements that the mask keeps are copied
//   a                r x d_in, pitched; packed transposed into scratch per split: [panel of r][step of k][width]
//   hidden_partials  [split][M][pitch]: the sum over the columns of the split; with all splits in one task, one array
//                    [M][pitch], to which the splits are added in order
//
// x is read once from memory, and from a cache for further tiles of the rank; A once per tile of tokens.
#pragma once

#include "cpu/forward_few.h"

namespace lily::cpu {
namespace {

// Tokens per step if scratch holds one split of A only: these rows of x stay in the L2 cache while all panels of r use
// them. If scratch holds several splits, a step is one register tile of rows that runs over all of these splits, so
// that each row of x is read in one long run.
constexpr int64_t kShrinkTokens = 96;

LILY_INLINE int64_t shrink_step(int64_t splits) { return splits > 1 ? kTileRows : kShrinkTokens; }

// Floats of one packed split of A, for a tile of the rank.
LILY_INLINE int64_t packed_split_floats(const ForwardPass &pass) {
  return steps_of<Operand>(pass.shrink_splits.width) * round_up(pass.shrink.rank_tiles.width, kLanes);
}

LILY_INLINE int64_t shrink_scratch(const ForwardPass &pass) {
  const int64_t lhs_floats = shrink_step(pass.packed_splits) * round_up(pass.shrink_splits.width, kLanes);
  const int64_t mask =
      pass.call->problem.dropout == 0 ? 0 : mask_floats(shrink_step(pass.packed_splits), pass.shrink_splits.width);
  return maximum(pass.packed_splits * packed_split_floats(pass) + lhs_floats + mask, shrink_few_scratch(pass));
}

// Packs A^T of one split and the ranks of a tile.
LILY_INLINE void pack_a(const ForwardPass &pass, int64_t split, const RankTile &tile, float *packed) {
  const int64_t begin = pass.shrink_splits.begin(split), depth = pass.shrink_splits.end(split) - begin;
  for (int64_t p = 0; p < panel_count(tile.ranks()); ++p) {
    const int64_t rows = panel_columns(tile.ranks(), p);
    pack_transposed<Operand>(rows, depth, submatrix(pass.call->a, tile.rank_begin + p * kPanel, begin), 1.0f,
                             packed + p * kPanel * steps_of<Operand>(depth), round_up(rows, kLanes));
  }
}

// Computes the partial sums of one split for a tile, or adds them to the sums of the splits before. `packed` is from
// pack_a.
LILY_INLINE void shrink_split(const ForwardPass &pass, int64_t split, const RankTile &tile, const float *packed,
                              float *lhs_scratch) {
  const int64_t begin = pass.shrink_splits.begin(split), depth = pass.shrink_splits.end(split) - begin;
  const int64_t tokens = tile.token_end - tile.token_begin, steps = steps_of<Operand>(depth);
  const TokenRows x = in_order(rows_from(pass.x_rows, tile.token_begin, begin), tokens);
  TileKind kind = tile_kind(pass.call->problem, pass.call->problem.rank, x.matrix, pass.call->problem.d_in);
  kind.prefetches = kind.prefetches && x.listed == nullptr;
  LeftOperand<Operand> lhs;
  const Dropout dropout = dropout_of(*pass.call);
  if (dropout.drops()) {
    const Mask mask =
        compute_mask(dropout, tile.token_begin, tokens, begin, depth, lhs_scratch + tokens * round_up(depth, kLanes));
    lhs = lhs_of_kept_rows<Operand>(x.matrix, tokens, depth, mask, lhs_scratch);
    kind.prefetches = pass.call->problem.rank <= kSmallRank;  // see tile_kind: rows are copied
  } else {
    lhs = lhs_of_rows<Operand>(x, tokens, depth, lhs_scratch);
  }
  float *const hidden = pass.hidden_partials.row_of_split(split, tile.token_begin) + tile.rank_begin;
  for (int64_t p = 0; p < panel_count(tile.ranks()); ++p) {
    const int64_t width = round_up(panel_columns(tile.ranks(), p), kLanes);
    multiply_rows({tokens, width, steps}, lhs, {packed + p * kPanel * steps, width},
                  {hidden + p * kPanel, pass.hidden_partials.pitch}, pass.hidden_partials.accumulates(split), kind,
                  next_rows<Operand>(x.matrix, tokens, depth, dropout.drops()));
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const bool all_splits = pass.hidden_partials.count == 1;
  const int64_t split_begin = all_splits ? 0 : task / pass.shrink.tile_count();
  const int64_t split_end = all_splits ? pass.shrink_splits.count : split_begin + 1;
  const RankTile tile = pass.shrink.tile(task % pass.shrink.tile_count(), pass.call->problem.tokens);
  const lily_problem &problem = pass.call->problem;
  if (problem.tokens <= kFewTokens && problem.dropout == 0)
    return shrink_few(pass, split_begin, split_end, tile, scratch);
  const int64_t split_floats = packed_split_floats(pass);
  float *lhs_scratch = scratch + pass.packed_splits * split_floats;

  for (int64_t first = split_begin; first < split_end; first += pass.packed_splits) {
    const int64_t last = minimum(split_end, first + pass.packed_splits);
    for (int64_t split = first; split < last; ++split) {
      pack_a(pass, split, tile, scratch + (split - first) * split_floats);
    }
    RankTile step = tile;
    for (; step.token_begin < tile.token_end; step.token_begin = step.token_end) {
      step.token_end = minimum(tile.token_end, step.token_begin + shrink_step(pass.packed_splits));
      for (int64_t split = first; split < last; ++split) {
        shrink_split(pass, split, step, scratch + (split - first) * split_floats, lhs_scratch);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
