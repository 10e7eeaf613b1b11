// y (+)= left C_g, a slab of d_out and a chunk of tokens at a time; left is h, or u = p (x) h with token routing.
//
//   left  M x mixture.rank
//   y     M x d_out, pitched
//
// For each group the slab's columns of C_g are combined into scratch, [panel][step of rank][width], where they stay
// while the group's tokens pass. y is read (when accumulating) and written once, B is read once per group and chunk.
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t expand_scratch(const ForwardPass &pass) {
  return steps_of<Operand>(pass.mixture.rank) * round_up(pass.expand_slabs.width, kLanes) +
         kTileRows * round_up(pass.mixture.rank, kLanes);
}

// The panels of C_g for the columns [begin, end).
LILY_INLINE void mix_slab(const Mixture &mixture, int64_t group, int64_t begin, int64_t end, float *out) {
  const float *weights = mixture.weights + group * mixture.experts;
  for (int64_t p = 0; p < panel_count(end - begin); ++p) {
    const int64_t columns = panel_columns(end - begin, p);
    mix_panel(mixture, weights, begin + p * kPanel, columns, out + p * kPanel * steps_of<Operand>(mixture.rank),
              round_up(columns, kLanes));
  }
}

void expand(const ForwardPass &pass, int64_t task, float *scratch) {
  const lily_matrix &y = pass.call->y;
  const int64_t rank = pass.mixture.rank;
  const int64_t slab = task % pass.expand_slabs.count;
  const int64_t begin = pass.expand_slabs.begin(slab), end = pass.expand_slabs.end(slab);
  const int64_t token_begin = task / pass.expand_slabs.count * pass.expand_chunk;
  const int64_t token_end = minimum(pass.groups.tokens, token_begin + pass.expand_chunk);
  const int64_t steps = steps_of<Operand>(rank);
  float *panels = scratch, *block = panels + steps * round_up(pass.expand_slabs.width, kLanes);
  for (int64_t group = pass.groups.of_token(token_begin); group < pass.groups.count; ++group) {
    const int64_t from_token = maximum(token_begin, pass.groups.begin(group));
    const int64_t to_token = minimum(token_end, pass.groups.end(group));
    if (pass.groups.begin(group) >= token_end) break;
    if (from_token >= to_token) continue;
    mix_slab(pass.mixture, group, begin, end, panels);
    for (int64_t t = from_token; t < to_token; t += kTileRows) {
      const int64_t tokens = minimum(kTileRows, to_token - t);
      const Left<Operand> left = left_rows<Operand>(from(pass.left, t, 0), tokens, rank, block);
      for (int64_t p = 0; p < panel_count(end - begin); ++p) {
        multiply_into(tokens, panel_columns(end - begin, p), steps, left, panels + p * kPanel * steps,
                      from(y, t, begin + p * kPanel));
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
