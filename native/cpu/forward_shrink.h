// h = x A^T, a slab of d_in and a chunk of tokens at a time.
//
//   x        M x d_in, pitched
//   a        r x d_in, pitched; a slab's columns are packed transposed, [panel of r][step of k][width], into scratch
//   partial  [slab][M][rank_pitch]: the sum over the slab's columns; or one slab, to which all are added in order
//
// x is read once.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

// Where several slabs of A fit into scratch, the rows of a tile pass over all of them, so that x is read in long runs.
// Where one does not leave room, more tokens pass over it, and stay in the L2 cache for the next panel of r.
constexpr int64_t kShrinkTokens = 96;

// Tokens that pass over the packed slabs at a time.
LILY_INLINE int64_t shrink_step(int64_t slabs) { return slabs > 1 ? kTileRows : kShrinkTokens; }

// A packed slab of A.
LILY_INLINE int64_t shrink_slab_floats(const ForwardPass &pass) {
  return steps_of<Operand>(pass.shrink_slabs.width) * pass.rank_pitch;
}

LILY_INLINE int64_t shrink_scratch(const ForwardPass &pass) {
  const int64_t block = shrink_step(pass.packed_slabs) * round_up(pass.shrink_slabs.width, kLanes);
  return pass.packed_slabs * shrink_slab_floats(pass) + block;
}

LILY_INLINE void pack_projector(const lily_matrix &a, int64_t rank, const Slabs &slabs, int64_t slab, float *packed) {
  const int64_t begin = slabs.begin(slab), depth = slabs.end(slab) - begin;
  for (int64_t p = 0; p < panel_count(rank); ++p) {
    const int64_t rows = panel_columns(rank, p);
    transpose<Operand>(rows, depth, from(a, p * kPanel, begin), 1.0f, packed + p * kPanel * steps_of<Operand>(depth),
                       round_up(rows, kLanes));
  }
}

// The sums over one slab's columns for `tokens` tokens from `token` on.
LILY_INLINE void shrink_slab(const ForwardPass &pass, int64_t slab, int64_t token, int64_t tokens, const float *packed,
                             float *out, bool accumulate, float *block) {
  const int64_t rank = pass.call->problem.rank;
  const int64_t begin = pass.shrink_slabs.begin(slab), depth = pass.shrink_slabs.end(slab) - begin;
  const int64_t steps = steps_of<Operand>(depth);
  const Left<Operand> rows = left_rows<Operand>(from(pass.call->x, token, begin), tokens, depth, block);
  for (int64_t p = 0; p < panel_count(rank); ++p) {
    const int64_t width = round_up(panel_columns(rank, p), kLanes);
    multiply_rows(tokens, width / kLanes, steps, rows, packed + p * kPanel * steps, width, out + p * kPanel,
                  pass.rank_pitch, accumulate);
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const bool all_slabs = pass.partial_count == 1;
  const int64_t slab_begin = all_slabs ? 0 : task / pass.shrink_chunks;
  const int64_t slab_end = all_slabs ? pass.shrink_slabs.count : slab_begin + 1;
  const int64_t token_begin = task % pass.shrink_chunks * pass.shrink_chunk;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.shrink_chunk);
  const int64_t slab_floats = shrink_slab_floats(pass);
  float *partial = pass.partial + slab_begin * problem.tokens * pass.rank_pitch;
  float *block = scratch + pass.packed_slabs * slab_floats;

  for (int64_t first = slab_begin; first < slab_end; first += pass.packed_slabs) {
    const int64_t last = minimum(slab_end, first + pass.packed_slabs);
    for (int64_t slab = first; slab < last; ++slab) {
      pack_projector(pass.call->a, problem.rank, pass.shrink_slabs, slab, scratch + (slab - first) * slab_floats);
    }
    const int64_t step = shrink_step(last - first);
    for (int64_t t = token_begin; t < token_end; t += step) {
      for (int64_t slab = first; slab < last; ++slab) {
        shrink_slab(pass, slab, t, minimum(step, token_end - t), scratch + (slab - first) * slab_floats,
                    partial + t * pass.rank_pitch, slab > slab_begin, block);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
