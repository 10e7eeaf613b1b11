// Token routing multiplies u_t = p_t (x) h_t by the rows of all B_e: a combined projector of one expert with rank E r.
// Factors of the tokens are part of u of forward: c_t p_t (x) h_t, and c_t h_t with other routings.
//
//   probabilities  M x E, contiguous
//   hidden         M x r, contiguous
//   u              M x E r or M x r, contiguous, in the element type of the large products
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// u_t of one token: `hidden`, of `rank` columns, times each of the `count` factors.
void write_u(int64_t rank, const lily_matrix &hidden, int64_t token, int64_t count, const float *factors,
             const lily_matrix &u) {
  auto *const out = static_cast<Operand::Element *>(submatrix(u, token, 0).data);
  with_element(hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *h = static_cast<const decltype(element) *>(hidden.data) + token * hidden.pitch;
    for (int64_t e = 0; e < count; ++e) {
      for_vectors(rank, [&](int64_t i, int64_t columns) __attribute__((always_inline)) {
        store_up_to(out + e * rank + i, factors[e] * load_up_to(h + i, columns), columns);
      });
    }
  });
}

// u_t of one tile of tokens.
void compute_u(const BackwardPass &pass, int64_t tile, float *) {
  const lily_problem &problem = pass.call->problem;
  const int64_t end = minimum(problem.tokens, (tile + 1) * kTokenTile);
  for (int64_t t = tile * kTokenTile; t < end; ++t) {
    write_u(problem.rank, pass.hidden, t, problem.experts, pass.call->probabilities + t * problem.experts, pass.u);
  }
}

}  // namespace
}  // namespace lily::cpu
