// Shrink: h = x A^T, before phi. A task computes one split of d_in for one tile of tokens, or all splits in order for a
// tile of tokens and of the rank.
//
//   x                M x d_in, pitched
//   a                r x d_in, pitched; packed transposed into scratch per split: [panel of r][step of k][width]
//   hidden_partials  [split][M][pitch]: the sum over the columns of the split; with all splits in one task, one array
//                    [M][pitch], to which the splits are added in order
//
// x is read once from memory, and from a cache for further tiles of the rank; A once per tile of tokens.
#pragma once

#include "cpu/pack.h"

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
  return pass.packed_splits * packed_split_floats(pass) + lhs_floats;
}

LILY_INLINE void pack_a(const lily_matrix &a, int64_t rank, const Partition &splits, int64_t split, float *packed) {
  const int64_t begin = splits.begin(split), depth = splits.end(split) - begin;
  for (int64_t p = 0; p < panel_count(rank); ++p) {
    const int64_t rows = panel_columns(rank, p);
    pack_transposed<Operand>(rows, depth, submatrix(a, p * kPanel, begin), 1.0f,
                             packed + p * kPanel * steps_of<Operand>(depth), round_up(rows, kLanes));
  }
}

// Computes the partial sums of one split for `tokens` tokens, starting at `token`, and `ranks` ranks.
LILY_INLINE void shrink_split(const ForwardPass &pass, int64_t split, int64_t token, int64_t tokens, int64_t ranks,
                              const float *packed, float *out, bool accumulate, float *lhs_scratch) {
  const int64_t begin = pass.shrink_splits.begin(split), depth = pass.shrink_splits.end(split) - begin;
  const int64_t steps = steps_of<Operand>(depth);
  const TileKind kind = tile_kind(pass.call->problem, pass.call->problem.rank, pass.call->x, pass.call->problem.d_in);
  const lily_matrix x = submatrix(pass.call->x, token, begin);
  const LeftOperand<Operand> lhs = lhs_of_rows<Operand>(x, tokens, depth, lhs_scratch);
  for (int64_t p = 0; p < panel_count(ranks); ++p) {
    const int64_t width = round_up(panel_columns(ranks, p), kLanes);
    multiply_rows({tokens, width, steps}, lhs, {packed + p * kPanel * steps, width},
                  {out + p * kPanel, pass.hidden_partials.pitch}, accumulate, kind,
                  next_rows<Operand>(x, tokens, depth));
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const bool all_splits = pass.hidden_partials.count == 1;
  const int64_t tile = task / pass.shrink.token_tiles, rank_tile = tile % pass.shrink.rank_tiles.count;
  const int64_t split_begin = all_splits ? 0 : tile / pass.shrink.rank_tiles.count;
  const int64_t split_end = all_splits ? pass.shrink_splits.count : split_begin + 1;
  const int64_t token_begin = task % pass.shrink.token_tiles * pass.shrink.tile_tokens;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.shrink.tile_tokens);
  const int64_t rank_begin = pass.shrink.rank_tiles.begin(rank_tile),
                ranks = pass.shrink.rank_tiles.end(rank_tile) - rank_begin;
  const lily_matrix a = submatrix(pass.call->a, rank_begin, 0);
  const int64_t split_floats = packed_split_floats(pass);
  float *lhs_scratch = scratch + pass.packed_splits * split_floats;

  for (int64_t first = split_begin; first < split_end; first += pass.packed_splits) {
    const int64_t last = minimum(split_end, first + pass.packed_splits);
    for (int64_t split = first; split < last; ++split) {
      pack_a(a, ranks, pass.shrink_splits, split, scratch + (split - first) * split_floats);
    }
    const int64_t step = shrink_step(pass.packed_splits);
    for (int64_t t = token_begin; t < token_end; t += step) {
      for (int64_t split = first; split < last; ++split) {
        shrink_split(pass, split, t, minimum(step, token_end - t), ranks, scratch + (split - first) * split_floats,
                     pass.hidden_partials.row(split_begin, t) + rank_begin, split > split_begin, lhs_scratch);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
