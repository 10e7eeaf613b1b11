// Token routing multiplies u_t = p_t (x) h_t by the rows of all B_e: a combined projector of one expert with rank E r.
//
//   probabilities  M x E, contiguous
//   hidden         M x r, contiguous
//   u              M x E r, contiguous, in the element type of the large products
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

// u_t of one token.
void write_u(const lily_problem &problem, const lily_matrix &hidden, int64_t token, const float *probabilities,
             const lily_matrix &u) {
  auto *const out = static_cast<Operand::Element *>(submatrix(u, token, 0).data);
  with_element(hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *h = static_cast<const decltype(element) *>(hidden.data) + token * hidden.pitch;
    for (int64_t e = 0; e < problem.experts; ++e) {
      for_vectors(problem.rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_up_to(out + e * problem.rank + i, probabilities[e] * load_up_to(h + i, count), count);
      });
    }
  });
}

// u_t of one tile of tokens.
void compute_u(const BackwardPass &pass, int64_t tile, float *) {
  const lily_problem &problem = pass.call->problem;
  const int64_t end = minimum(problem.tokens, (tile + 1) * kTokenTile);
  for (int64_t t = tile * kTokenTile; t < end; ++t) {
    write_u(problem, pass.hidden, t, pass.call->probabilities + t * problem.experts, pass.u);
  }
}

}  // namespace
}  // namespace lily::cpu
