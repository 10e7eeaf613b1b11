// The gradients of the logits and of hidden. A task processes one tile of kTokenTile tokens.
//
//   pooled routing:  q_t = sum over splits of q_partials;  dp_te = keep_t d_pooled_ge, with d_pooled_ge = dw_ge / n_g
//   token routing:   v_t = sum over splits of q_partials;  dp_te = <h_t, v_te>;  q_t = sum_e p_te v_te
//
//   dl_t = p_t * (dp_t - <p_t, dp_t>)        with pool `logits`: dl_te = keep_t d_pooled_ge
//   dh_t = (q_t + dl_t R) * phi'(h_t)             with dropout, times its factor
//
//   q_partials     [split][rows][pitch], float32
//   probabilities  M x E, contiguous
//   hidden         M x r, contiguous
//   router_packed  E x rank_pitch: R, float32
//   d_logits       M x E, contiguous
//   d_hidden       M x rank_pitch, padded with zeros
//   d_hidden_lhs   the same values in the element type of the large products; d_hidden itself for float32
//
// One pass over the tokens: the partial sums are read once, each output is written once.
#pragma once

#include "cpu/pack.h"

namespace lily::cpu {
namespace {

void pack_router_rows(const BackwardPass &pass, int64_t, float *) {
  const lily_problem &problem = pass.call->problem;
  pack<Floats>(problem.experts, problem.rank, pass.call->router, 1.0f, pass.router_packed, pass.rank_pitch);
}

// One vector of the sum over the splits. The rows of q_partials are padded with zeros.
LILY_INLINE Vector sum_of_splits(const RowPartials &q, int64_t token, int64_t column) {
  Vector sum = load(q.row(0, token) + column);
  for (int64_t split = 1; split < q.count; ++split) sum += load(q.row(split, token) + column);
  return sum;
}

// Token routing: computes dp of one token and stores its q to d_hidden.
LILY_INLINE void token_routing_gradient(const BackwardPass &pass, const RowPartials &q, int64_t token, float *d_probs,
                                        float *d_hidden) {
  const lily_problem &problem = pass.call->problem;
  const float *p = pass.call->probabilities + token * problem.experts;
  // v_te starts at any offset of the row, so it cannot be summed in whole vectors per expert. The splits are summed
  // once, into the row of the first split, which no other task reads.
  float *v = q.row(0, token);
  for (int64_t j = 0; j < q.pitch; j += kLanes) store(v + j, sum_of_splits(q, token, j));
  clear(d_hidden, pass.rank_pitch);
  with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *hidden = static_cast<const decltype(element) *>(pass.hidden.data) + token * problem.rank;
    for (int64_t e = 0; e < problem.experts; ++e) {
      const float *v_e = v + e * problem.rank;
      Vector sum = {};
      int64_t i = 0;
      for (; i + kLanes <= problem.rank; i += kLanes) {
        const Vector values = load(v_e + i);
        sum += load(hidden + i) * values;
        store(d_hidden + i, load(d_hidden + i) + p[e] * values);
      }
      float rest = 0.0f;
      for (; i < problem.rank; ++i) {
        rest += value_of(hidden[i]) * v_e[i];
        d_hidden[i] += p[e] * v_e[i];
      }
      d_probs[e] = sum_lanes(sum) + rest;
    }
  });
}

// dl = p * (dp - <p, dp>). Adding a constant to dp does not change dl, so dp is taken relative to the dp of the most
// likely expert. If the p of that expert is close to 1, <p, dp> is close to its dp, and the difference of the two would
// consist of rounding errors; relative to its dp, both terms are small.
LILY_INLINE void softmax_gradient(int64_t experts, const float *p, const float *d_probs, float *d_logits) {
  int64_t most_likely = 0;
  for (int64_t e = 1; e < experts; ++e) most_likely = p[e] > p[most_likely] ? e : most_likely;
  float mean = 0.0f;
  for (int64_t e = 0; e < experts; ++e) mean += p[e] * (d_probs[e] - d_probs[most_likely]);
  for (int64_t e = 0; e < experts; ++e) d_logits[e] = p[e] * ((d_probs[e] - d_probs[most_likely]) - mean);
}

// Stores q of the tokens [begin, end) of a group to d_hidden, and computes their dl.
LILY_INLINE void compute_q_and_d_logits(const BackwardPass &pass, int64_t group, int64_t begin, int64_t end) {
  const lily_problem &problem = pass.call->problem;
  const int64_t experts = problem.experts;
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;
  const RowPartials q = pass.q_partials;  // a copy: no store can change it
  for (int64_t t = begin; t < end; ++t) {
    float *d_hidden = pass.d_hidden + t * pass.rank_pitch;
    float d_probs[kMaxExperts];
    if (token_routing) {
      token_routing_gradient(pass, q, t, d_probs, d_hidden);
    } else {
      for (int64_t i = 0; i < pass.rank_pitch; i += kLanes) store(d_hidden + i, sum_of_splits(q, t, i));
    }
    if (pass.d_logits == nullptr) continue;
    float *d_logits = pass.d_logits + t * experts;
    const float *d_pooled = pass.d_pooled + group * experts;
    if (token_routing) {
      softmax_gradient(experts, pass.call->probabilities + t * experts, d_probs, d_logits);
    } else if (pass.call->tokens.mask != nullptr && pass.call->tokens.mask[t] == 0) {
      clear(d_logits, experts);
    } else if (problem.pool == LILY_POOL_LOGITS) {
      for (int64_t e = 0; e < experts; ++e) d_logits[e] = d_pooled[e];
    } else {
      softmax_gradient(experts, pass.call->probabilities + t * experts, d_pooled, d_logits);
    }
  }
}

// dh += dl R
LILY_INLINE void add_router_product(const BackwardPass &pass, int64_t begin, int64_t end) {
  const int64_t experts = pass.call->problem.experts;
  for (int64_t i = 0; i < pass.rank_pitch; i += kPanel) {
    multiply_rows({end - begin, minimum(kPanel, pass.rank_pitch - i), experts},
                  LeftOperand<Floats>{pass.d_logits + begin * experts, experts, 1},
                  {pass.router_packed + i, pass.rank_pitch},
                  {pass.d_hidden + begin * pass.rank_pitch + i, pass.rank_pitch}, true);
  }
}

// dh *= relu'(h)
LILY_INLINE void multiply_by_d_relu(const BackwardPass &pass, int64_t begin, int64_t end) {
  const int64_t rank = pass.call->problem.rank;
  with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t t = begin; t < end; ++t) {
      const auto *hidden = static_cast<const decltype(element) *>(pass.hidden.data) + t * rank;
      float *d_hidden = pass.d_hidden + t * pass.rank_pitch;
      for_vectors(rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        // A NaN of h keeps the gradient, as in PyTorch: a 0 would hide it.
        store(d_hidden + i, load_up_to(hidden + i, count) <= 0.0f ? Vector{} : load(d_hidden + i));
      });
    }
  });
}

// dh *= the factor of dropout
LILY_INLINE void multiply_by_dropout_factor(const BackwardPass &pass, int64_t begin, int64_t end) {
  const float factor = dropout_factor(pass.call->problem);
  float *const d_hidden = pass.d_hidden + begin * pass.rank_pitch;
  for (int64_t i = 0; i < (end - begin) * pass.rank_pitch; i += kLanes)
    store(d_hidden + i, factor * load(d_hidden + i));
}

// Converts dh to the type of the large products, and pads it with zeros.
LILY_INLINE void store_d_hidden_lhs(const BackwardPass &pass, int64_t begin, int64_t end) {
  const int64_t pitch = pass.d_hidden_lhs.pitch;
  for (int64_t t = begin; t < end; ++t) {
    auto *const row = static_cast<Operand::Element *>(pass.d_hidden_lhs.data) + t * pitch;
    for (int64_t i = 0; i < pass.rank_pitch; i += kLanes) store(row + i, load(pass.d_hidden + t * pass.rank_pitch + i));
    for (int64_t i = pass.rank_pitch; i < pitch; i += kLanes) store(row + i, Vector{});
  }
}

void compute_d_hidden(const BackwardPass &pass, int64_t tile, float *) {
  const int64_t group = pass.groups.of_tile(tile);
  const int64_t begin = pass.groups.begin(group) + (tile - pass.groups.first_tile(group)) * kTokenTile;
  const int64_t end = minimum(pass.groups.end(group), begin + kTokenTile);
  compute_q_and_d_logits(pass, group, begin, end);
  if (pass.d_logits != nullptr) add_router_product(pass, begin, end);
  if (pass.call->problem.activation == LILY_ACTIVATION_RELU) multiply_by_d_relu(pass, begin, end);
  if (pass.call->problem.dropout != 0) multiply_by_dropout_factor(pass, begin, end);
  if (Operand::kDtype != LILY_FLOAT32) store_d_hidden_lhs(pass, begin, end);
}

}  // namespace
}  // namespace lily::cpu
