// The gradient of the router:  dR (+)= dl^T h over the tokens that the mask keeps. A task processes one tile of r for
// all tokens.
//
//   d_logits   M x E, contiguous
//   hidden     M x r, contiguous
//   d_router   E x r, pitched
//   d_mixture  without a router: the gradient of given weights, G x E, or of the logits of a learned mixture, E x 1
#pragma once

#include "cpu/outer_product.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t d_router_scratch(const BackwardPass &pass) {
  return pass.call->problem.experts * round_up(pass.router.tiles.width, kLanes) +
         pass.router.outer_product_tokens * kPanel;
}

void compute_d_router(const BackwardPass &pass, int64_t tile, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const lily_matrix &out = pass.call->d_router;
  const uint8_t *mask = pass.call->tokens.mask;
  const int64_t begin = pass.router.tiles.begin(tile), columns = pass.router.tiles.end(tile) - begin;
  float *sums = scratch, *rhs_scratch = sums + problem.experts * round_up(columns, kLanes);
  clear(sums, problem.experts * round_up(columns, kLanes));
  for (int64_t t = 0; t < problem.tokens; t += pass.router.outer_product_tokens) {
    const LeftOperand<Floats> lhs = {pass.d_logits + t * problem.experts, 1, problem.experts};
    add_outer_product(problem.experts, minimum(pass.router.outer_product_tokens, problem.tokens - t), lhs,
                      submatrix(pass.hidden, t, begin), columns, sums, rhs_scratch,
                      mask == nullptr ? nullptr : mask + t);
  }
  write_panels(problem.experts, columns, sums, 1.0f, submatrix(out, 0, begin), out.accumulate != 0);
}

// The values of d_pooled, in one task.
void write_d_mixture(const BackwardPass &pass, int64_t, float *) {
  const lily_problem &problem = pass.call->problem;
  const bool learned = problem.routing == LILY_ROUTING_LEARNED;
  const int64_t rows = learned ? problem.experts : problem.groups, columns = learned ? 1 : problem.experts;
  write_rows(rows, columns, pass.d_pooled, columns, 1.0f, pass.d_mixture, pass.d_mixture.accumulate != 0);
}

}  // namespace
}  // namespace lily::cpu
