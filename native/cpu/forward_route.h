// Routing: everything that depends on one token. A task processes one tile of kTokenTile tokens.
//
//   h_t = phi(sum over splits of hidden_partials)  with dropout, the sum is multiplied by q before phi
//   l_t = h_t R^T
//   p_t = softmax(l_t)                            not computed with pool `logits`
//   pool_sums = sum of p_t over the kept tokens   of l_t with pool `logits`
//   u_t = c_t p_t (x) h_t                         token routing, which needs no pool_sums
//   u_t = c_t h_t                                 other routings with factors of the tokens
//
//   hidden_partials  [split][M][pitch], float32
//   hidden           M x r, contiguous; l and u use the values as rounded to its element type
//   router_packed    r x expert_pitch: R^T, float32; of learned mixtures the E logits
//   probabilities    M x E, contiguous, may be null
//   pool_sums        [token tile][E]
//   u                M x E r or M x r, in the element type of the large products
//
// One pass over the tokens: the partial sums are read once, each output is written once.
#pragma once

#include "cpu/pack.h"
#include "cpu/token_routing.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t route_scratch(const ForwardPass &pass) {
  return pass.hidden.dtype == LILY_FLOAT32 ? 0 : kTileRows * pass.hidden_partials.pitch;
}

void pack_router(const ForwardPass &pass, int64_t, float *) {
  pack_transposed<Floats>(pass.call->problem.experts, pass.router_columns, pass.call->router, 1.0f, pass.router_packed,
                          pass.expert_pitch);
}

LILY_INLINE void sum_hidden(const ForwardPass &pass, int64_t token) {
  const lily_problem &problem = pass.call->problem;
  const bool relu = problem.activation == LILY_ACTIVATION_RELU, drops = problem.dropout != 0;
  const float factor = dropout_factor(problem);
  const RowPartials partials = pass.hidden_partials;  // a copy: no store can change it
  with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    auto *const hidden = static_cast<decltype(element) *>(pass.hidden.data) + token * problem.rank;
    for_vectors(problem.rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
      Vector sum = load(partials.row(0, token) + i);
      for (int64_t split = 1; split < partials.count; ++split) sum += load(partials.row(split, token) + i);
      if (drops) sum *= factor;
      if (relu) sum = sum < 0.0f ? Vector{} : sum;
      store_up_to(hidden + i, sum, count);
    });
  });
}

// In place, over the first `experts` elements of a row that is padded to whole vectors.
LILY_INLINE void softmax(float *row, int64_t experts) {
  float largest = row[0];
  for (int64_t e = 1; e < experts; ++e) largest = row[e] > largest ? row[e] : largest;
  for (int64_t e = 0; e < experts; e += kLanes) store(row + e, exp_of_nonpositive(load(row + e) - largest));
  float sum = 0.0f;
  for (int64_t e = 0; e < experts; ++e) sum += row[e];
  for (int64_t e = 0; e < experts; ++e) row[e] /= sum;
}

void route(const ForwardPass &pass, int64_t tile, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const int64_t group = pass.groups.of_tile(tile);
  const int64_t begin = pass.groups.begin(group) + (tile - pass.groups.first_tile(group)) * kTokenTile;
  const int64_t end = minimum(pass.groups.end(group), begin + kTokenTile);
  for (int64_t t = begin; t < end; ++t) sum_hidden(pass, t);
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  const float *const scale = pass.call->tokens.scale;
  if (scale != nullptr && !token_routing) {
    for (int64_t t = begin; t < end; ++t) write_u(problem.rank, pass.hidden, t, 1, scale + t, pass.u);
  }
  if (pass.pool_sums == nullptr) return;

  float logits[kTokenTile * kMaxExperts];  // softmax replaces them by the probabilities
  const int64_t pitch = pass.expert_pitch;
  for (int64_t t = begin; t < end; t += kTileRows) {
    const int64_t tokens = minimum(kTileRows, end - t);
    const LeftOperand<Floats> lhs = lhs_of_rows<Floats>(submatrix(pass.hidden, t, 0), tokens, problem.rank, scratch);
    for (int64_t e = 0; e < pitch; e += kPanel) {
      multiply_rows({tokens, minimum(kPanel, pitch - e), problem.rank}, lhs, {pass.router_packed + e, pitch},
                    {logits + (t - begin) * pitch + e, pitch}, false);
    }
  }
  if (problem.pool == LILY_POOL_PROBABILITIES) {
    for (int64_t t = begin; t < end; ++t) {
      float *row = logits + (t - begin) * pitch;
      softmax(row, problem.experts);
      if (pass.probabilities == nullptr) continue;
      for (int64_t e = 0; e < problem.experts; ++e) pass.probabilities[t * problem.experts + e] = row[e];
    }
  }
  if (token_routing) {
    for (int64_t t = begin; t < end; ++t) {
      float *const row = logits + (t - begin) * pitch;
      for (int64_t e = 0; scale != nullptr && e < problem.experts; ++e) row[e] *= scale[t];
      write_u(problem.rank, pass.hidden, t, problem.experts, row, pass.u);
    }
    return;
  }
  float *sums = pass.pool_sums + tile * problem.experts;
  clear(sums, problem.experts);
  for (int64_t t = begin; t < end; ++t) {
    if (pass.call->tokens.mask != nullptr && pass.call->tokens.mask[t] == 0) continue;
    for (int64_t e = 0; e < problem.experts; ++e) sums[e] += logits[(t - begin) * pitch + e];
  }
}

}  // namespace
}  // namespace lily::cpu
