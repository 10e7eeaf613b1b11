// h = x A^T, a slab of d_in and a chunk of tokens at a time.
//
//   x        M x d_in, pitched
//   a        r x d_in, pitched; the task's columns are packed transposed, [panel of r][k][width], into scratch
//   partial  [slab][M][rank_pitch]: the sum over the slab's columns
//
// x is read once. Large M needs few slabs (its chunks occupy the threads), small M many.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

// A packed block of A is this deep: 512 x 16 floats are an L1 cache, 512 x 64 an eighth of an L2 cache.
constexpr int64_t kShrinkDepth = 512;

// With many panels of r, the tokens of one step stay in the L2 cache while the panels pass over them.
constexpr int64_t kShrinkTokens = 96;

LILY_INLINE int64_t shrink_scratch(const ForwardPass &pass) {
  return minimum(kShrinkDepth, pass.shrink_slabs.width) * pass.rank_pitch;
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const int64_t slab = task / pass.shrink_chunks;
  const int64_t token_begin = task % pass.shrink_chunks * pass.shrink_chunk;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.shrink_chunk);
  const float *x = static_cast<const float *>(pass.call->x.data);
  const float *a = static_cast<const float *>(pass.call->a.data);
  float *partial = pass.partial + slab * problem.tokens * pass.rank_pitch;
  const int64_t begin = pass.shrink_slabs.begin(slab), end = pass.shrink_slabs.end(slab);

  for (int64_t k = begin; k < end; k += kShrinkDepth) {
    const int64_t depth = minimum(kShrinkDepth, end - k);
    for (int64_t p = 0; p < panel_count(problem.rank); ++p) {
      const int64_t rows = panel_columns(problem.rank, p);
      transpose(rows, depth, a + p * kPanel * pass.call->a.pitch + k, pass.call->a.pitch, 1.0f,
                scratch + p * kPanel * depth, round_up(rows, kLanes));
    }
    for (int64_t t = token_begin; t < token_end; t += kShrinkTokens) {
      const int64_t tokens = minimum(kShrinkTokens, token_end - t);
      for (int64_t p = 0; p < panel_count(problem.rank); ++p) {
        const int64_t width = round_up(panel_columns(problem.rank, p), kLanes);
        multiply_rows(tokens, width / kLanes, depth, Left{x + t * pass.call->x.pitch + k, pass.call->x.pitch, 1},
                      scratch + p * kPanel * depth, width, partial + t * pass.rank_pitch + p * kPanel, pass.rank_pitch,
                      k > begin);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
