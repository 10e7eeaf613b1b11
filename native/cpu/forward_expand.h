// y (+)= left C_g, a slab of d_out and a chunk of tokens at a time; left is h, or u = p (x) h with token routing.
//
//   left  M x mixture.rank
//   y     M x d_out, pitched
//
// For each group the slab's columns of C_g are combined into scratch, [panel][rank][width], where they stay while the
// group's tokens pass. y is read (when accumulating) and written once, B is read once per group and chunk.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t expand_scratch(const ForwardPass &pass) {
  return pass.mixture.rank * round_up(pass.expand_slabs.width, kLanes);
}

// The panels of C_g for the columns [begin, end).
LILY_INLINE void mix_slab(const Mixture &mixture, int64_t group, int64_t begin, int64_t end, float *out) {
  const float *weights = mixture.weights + group * mixture.experts;
  for (int64_t p = 0; p < panel_count(end - begin); ++p) {
    const int64_t columns = panel_columns(end - begin, p);
    mix_panel(mixture, weights, begin + p * kPanel, columns, out + p * kPanel * mixture.rank,
              round_up(columns, kLanes));
  }
}

// out[rows][columns] (+)= left panels, for at most kTileRows rows and any number of packed panels.
LILY_INLINE void multiply_panels(int64_t rows, int64_t columns, int64_t depth, Left left, const float *panels,
                                 float *out, int64_t pitch, bool accumulate) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    multiply_into(rows, panel_columns(columns, p), depth, left, panels + p * kPanel * depth, out + p * kPanel, pitch,
                  accumulate);
  }
}

void expand(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_matrix &y = pass.call->y;
  const int64_t rank = pass.mixture.rank;
  const int64_t slab = task % pass.expand_slabs.count;
  const int64_t begin = pass.expand_slabs.begin(slab), end = pass.expand_slabs.end(slab);
  const int64_t token_begin = task / pass.expand_slabs.count * pass.expand_chunk;
  const int64_t token_end = minimum(pass.groups.tokens, token_begin + pass.expand_chunk);
  float *out = static_cast<float *>(y.data) + begin;
  for (int64_t group = pass.groups.of_token(token_begin); group < pass.groups.count; ++group) {
    const int64_t from = maximum(token_begin, pass.groups.begin(group));
    const int64_t to = minimum(token_end, pass.groups.end(group));
    if (pass.groups.begin(group) >= token_end) break;
    if (from >= to) continue;
    mix_slab(pass.mixture, group, begin, end, scratch);
    for (int64_t t = from; t < to; t += kTileRows) {
      multiply_panels(minimum(kTileRows, to - t), end - begin, rank, Left{pass.left + t * rank, rank, 1}, scratch,
                      out + t * y.pitch, y.pitch, y.accumulate != 0);
    }
  }
}

}  // namespace
}  // namespace lily::cpu
