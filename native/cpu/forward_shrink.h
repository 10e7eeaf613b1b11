// h = x A^T, a slab of d_in and a chunk of tokens at a time.
//
//   x        M x d_in, pitched
//   a        r x d_in, pitched; a slab's columns are packed transposed, [panel of r][k][width], into scratch
//   partial  [slab][M][rank_pitch]: the sum over the slab's columns; or one slab, to which all are added in order
//
// x is read once.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

// With many panels of r, the tokens of one step stay in the L2 cache while the panels pass over them.
constexpr int64_t kShrinkTokens = 96;

LILY_INLINE int64_t shrink_scratch(const ForwardPass &pass) { return pass.shrink_slabs.width * pass.rank_pitch; }

LILY_INLINE void pack_projector(const lily_matrix &a, int64_t rank, int64_t begin, int64_t depth, float *packed) {
  for (int64_t p = 0; p < panel_count(rank); ++p) {
    const int64_t rows = panel_columns(rank, p);
    transpose(rows, depth, static_cast<const float *>(a.data) + p * kPanel * a.pitch + begin, a.pitch, 1.0f,
              packed + p * kPanel * depth, round_up(rows, kLanes));
  }
}

void shrink(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &x = pass.call->x;
  const bool all_slabs = pass.partial_count == 1;
  const int64_t slab_begin = all_slabs ? 0 : task / pass.shrink_chunks;
  const int64_t slab_end = all_slabs ? pass.shrink_slabs.count : slab_begin + 1;
  const int64_t token_begin = task % pass.shrink_chunks * pass.shrink_chunk;
  const int64_t token_end = minimum(problem.tokens, token_begin + pass.shrink_chunk);
  float *partial = pass.partial + slab_begin * problem.tokens * pass.rank_pitch;

  for (int64_t slab = slab_begin; slab < slab_end; ++slab) {
    const int64_t k = pass.shrink_slabs.begin(slab), depth = pass.shrink_slabs.end(slab) - k;
    pack_projector(pass.call->a, problem.rank, k, depth, scratch);
    for (int64_t t = token_begin; t < token_end; t += kShrinkTokens) {
      const int64_t tokens = minimum(kShrinkTokens, token_end - t);
      const Left rows = {static_cast<const float *>(x.data) + t * x.pitch + k, x.pitch, 1};
      for (int64_t p = 0; p < panel_count(problem.rank); ++p) {
        const int64_t width = round_up(panel_columns(problem.rank, p), kLanes);
        multiply_rows(tokens, width / kLanes, depth, rows, scratch + p * kPanel * depth, width,
                      partial + t * pass.rank_pitch + p * kPanel, pass.rank_pitch, slab > slab_begin);
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
