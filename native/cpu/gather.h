// Gathers the rows of x and dy that a call lists, so that the products read them as a matrix of the tokens.
//
//   x_t  = row rows[t] of x
//   dy_t = c_t times row rows[t] of dy, rounded to the type of dy
//
// A task copies one tile of kGatherTile tokens.
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// Copies rows of `in` to the rows of `out`, which are contiguous. `scale`: null, or a factor of each token.
LILY_INLINE void gather_rows(const TokenRows &in, const float *scale, int64_t tile, int64_t tokens, int64_t columns,
                             const lily_matrix &out) {
  const int64_t end = minimum(tokens, (tile + 1) * kGatherTile);
  with_element(in.matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t t = tile * kGatherTile; t < end; ++t) {
      const E *const row = static_cast<const E *>(in.matrix.data) + in.of(t) * in.matrix.pitch;
      E *const to = static_cast<E *>(out.data) + t * columns;
      const float factor = scale == nullptr ? 1.0f : scale[t];
      if (factor == 1.0f) {
        __builtin_memcpy(to, row, static_cast<size_t>(columns) * sizeof(E));
        continue;
      }
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        store_up_to(to + j, factor * load_up_to(row + j, count), count);
      });
    }
  });
}

template <typename Pass>
void gather_x(const Pass &pass, int64_t tile, float *) {
  const lily_problem &problem = pass.call->problem;
  gather_rows({pass.call->x, pass.call->tokens.rows}, nullptr, tile, problem.tokens, problem.d_in, pass.x_rows.matrix);
}

void gather_dy(const BackwardPass &pass, int64_t tile, float *) {
  const lily_problem &problem = pass.call->problem;
  const lily_tokens &tokens = pass.call->tokens;
  gather_rows({pass.call->dy, tokens.rows}, tokens.scale, tile, problem.tokens, problem.d_out, pass.dy_rows.matrix);
}

}  // namespace
}  // namespace lily::cpu
