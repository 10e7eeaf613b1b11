// Expand: y (+)= s lhs C_g. The packed C_g includes the factor s. A task computes one tile of d_out for one tile of
// tokens.
//
//   lhs  M x stack.rank, contiguous: hidden, or u_t = p_t (x) h_t with token routing
//   y    M x d_out, pitched
//   C_g  s C_g, packed in scratch: [panel of d_out][step of k][width]
//
// For each group, the task combines its columns of C_g in scratch and applies them to all tokens of the group. y is
// written once, and read once if it is accumulated. B is read once per group and tile of tokens.
#pragma once

#include "cpu/forward_few.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t expand_scratch(const ForwardPass &pass) {
  const int64_t packed = steps_of<Operand>(pass.stack.rank) * round_up(pass.expand.columns.width, kLanes);
  return maximum(packed + kTileRows * round_up(pass.stack.rank, kLanes), expand_few_scratch(pass));
}

void expand(const ForwardPass &pass, int64_t task, float *scratch) {
  const TokenRows &y = pass.y_rows;
  const int64_t rank = pass.stack.rank;
  const int64_t column_tile = task % pass.expand.columns.count;
  const int64_t begin = pass.expand.columns.begin(column_tile), end = pass.expand.columns.end(column_tile);
  if (pass.groups.tokens <= kFewTokens) return expand_few(pass, begin, end, scratch);
  const int64_t token_begin = task / pass.expand.columns.count * pass.expand.tile_tokens;
  const int64_t token_end = minimum(pass.groups.tokens, token_begin + pass.expand.tile_tokens);
  const int64_t steps = steps_of<Operand>(rank);
  const int64_t last_width = round_up(panel_columns(end - begin, panel_count(end - begin) - 1), kLanes);
  float *combined = scratch, *lhs_scratch = combined + steps * round_up(pass.expand.columns.width, kLanes);
  const bool prefetches = y.listed == nullptr &&
                          bytes_of(pass.call->problem.tokens, pass.call->problem.d_out, y.matrix) > kPrefetchedResult;
  for (int64_t group = pass.groups.of_token(token_begin); group < pass.groups.count; ++group) {
    const int64_t from_token = maximum(token_begin, pass.groups.begin(group));
    const int64_t to_token = minimum(token_end, pass.groups.end(group));
    if (pass.groups.begin(group) >= token_end) break;
    if (from_token >= to_token) continue;
    combine_panels(pass.stack, group, begin, end - begin, combined, last_width);
    for (int64_t t = from_token; t < to_token; t += kTileRows) {
      const int64_t tokens = minimum(kTileRows, to_token - t);
      const LeftOperand<Operand> lhs = lhs_of_rows<Operand>(submatrix(pass.lhs, t, 0), tokens, rank, lhs_scratch);
      for (int64_t p = 0; p < panel_count(end - begin); ++p) {
        if (prefetches) prefetch_ahead(to_token - t, end - begin, p, submatrix(y.matrix, t, begin));
        multiply_into(tokens, panel_columns(end - begin, p), steps, lhs, combined + p * kPanel * steps,
                      rows_from(y, t, begin + p * kPanel));
      }
    }
  }
}

}  // namespace
}  // namespace lily::cpu
