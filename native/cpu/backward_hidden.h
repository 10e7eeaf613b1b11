// From the partial sums of q to the gradient of the hidden, a block of tokens at a time.
//
//   pooled:  q_t = sum over slabs of q_partial;  dp_te = keep_t group_gradient_ge (dw_ge / n_g)
//   token:   v_t = sum over slabs of q_partial;  dp_te = <h_t, v_te>;  q_t = sum_e p_te v_te
//   dl_t = p_t * (dp_t - <p_t, dp_t>);  with pool `logits` dl_te = keep_t group_gradient_ge
//   dh_t = (q_t + dl_t R) * phi'(h_t)
//
//   dl  M x E;  dh  M x rank_pitch, its padding zero;  dh_left  the same, as elements of the large products
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

void pack_router_rows(const BackwardPass &pass) {
  const lily_problem &problem = pass.call->problem;
  copy_padded<Floats>(problem.experts, problem.rank, pass.call->router, 1.0f, pass.router_packed, pass.rank_pitch);
}

// Sum over the slabs, whole vectors; q_partial's rows are padded with zeros.
LILY_INLINE Vector sum_of_slabs(const BackwardPass &pass, int64_t token, int64_t column) {
  const float *first = pass.q_partial + token * pass.left_pitch + column;
  Vector sum = load(first);
  for (int64_t slab = 1; slab < pass.dy_slabs.count; ++slab) {
    sum += load(first + slab * pass.call->problem.tokens * pass.left_pitch);
  }
  return sum;
}

// dp of a token with token routing, and its q into dh.
LILY_INLINE void gradient_of_mixing(const BackwardPass &pass, int64_t token, float *dp, float *dh) {
  const lily_problem &problem = pass.call->problem;
  const float *p = pass.call->probabilities + token * problem.experts;
  // v lies at any offset in its row: an expert's part need not begin on a whole vector. The slabs are summed once, into
  // the first slab's row, which nobody else reads.
  float *v = pass.q_partial + token * pass.left_pitch;
  for (int64_t j = 0; j < pass.left_pitch; j += kLanes) store(v + j, sum_of_slabs(pass, token, j));
  clear(dh, pass.rank_pitch);
  with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *hidden = static_cast<const decltype(element) *>(pass.hidden.data) + token * problem.rank;
    for (int64_t e = 0; e < problem.experts; ++e) {
      const float *part = v + e * problem.rank;
      Vector sum = {};
      int64_t i = 0;
      for (; i + kLanes <= problem.rank; i += kLanes) {
        const Vector values = load(part + i);
        sum += load(hidden + i) * values;
        store(dh + i, load(dh + i) + p[e] * values);
      }
      float rest = 0.0f;
      for (; i < problem.rank; ++i) {
        rest += value_of(hidden[i]) * part[i];
        dh[i] += p[e] * part[i];
      }
      dp[e] = sum_lanes(sum) + rest;
    }
  });
}

// The gradient does not change when a constant is added to dp. Counted from the dp of the likeliest expert, what is
// left to subtract is small where its p is close to 1; <p, dp> itself would be close to its dp, and their difference
// rounding.
LILY_INLINE void softmax_gradient(int64_t experts, const float *p, const float *dp, float *dl) {
  int64_t likeliest = 0;
  for (int64_t e = 1; e < experts; ++e) likeliest = p[e] > p[likeliest] ? e : likeliest;
  float mean = 0.0f;
  for (int64_t e = 0; e < experts; ++e) mean += p[e] * (dp[e] - dp[likeliest]);
  for (int64_t e = 0; e < experts; ++e) dl[e] = p[e] * ((dp[e] - dp[likeliest]) - mean);
}

void hidden_gradient(const BackwardPass &pass, int64_t block) {
  const lily_problem &problem = pass.call->problem;
  const int64_t experts = problem.experts;
  const int64_t group = pass.groups.of_block(block);
  const int64_t begin = pass.groups.begin(group) + (block - pass.groups.first_block(group)) * kTokenBlock;
  const int64_t end = minimum(pass.groups.end(group), begin + kTokenBlock);
  const bool token_routing = problem.routing == LILY_ROUTING_TOKEN;

  for (int64_t t = begin; t < end; ++t) {
    float *dh = pass.dh + t * pass.rank_pitch;
    float dp[kMaxExperts];
    if (token_routing) {
      gradient_of_mixing(pass, t, dp, dh);
    } else {
      for (int64_t i = 0; i < pass.rank_pitch; i += kLanes) store(dh + i, sum_of_slabs(pass, t, i));
    }
    if (pass.dl == nullptr) continue;
    float *dl = pass.dl + t * experts;
    const float *of_group = pass.group_gradient + group * experts;
    if (token_routing) {
      softmax_gradient(experts, pass.call->probabilities + t * experts, dp, dl);
    } else if (pass.call->tokens.mask != nullptr && pass.call->tokens.mask[t] == 0) {
      clear(dl, experts);
    } else if (problem.pool == LILY_POOL_LOGITS) {
      for (int64_t e = 0; e < experts; ++e) dl[e] = of_group[e];
    } else {
      softmax_gradient(experts, pass.call->probabilities + t * experts, of_group, dl);
    }
  }
  if (pass.dl != nullptr) {
    for (int64_t i = 0; i < pass.rank_pitch; i += kPanel) {
      multiply_rows(end - begin, minimum(kPanel, pass.rank_pitch - i) / kLanes, experts,
                    Left<Floats>{pass.dl + begin * experts, experts, 1}, pass.router_packed + i, pass.rank_pitch,
                    pass.dh + begin * pass.rank_pitch + i, pass.rank_pitch, true);
    }
  }
  if (problem.activation == LILY_ACTIVATION_RELU) {
    with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
      for (int64_t t = begin; t < end; ++t) {
        const auto *hidden = static_cast<const decltype(element) *>(pass.hidden.data) + t * problem.rank;
        float *dh = pass.dh + t * pass.rank_pitch;
        for_vectors(problem.rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          store(dh + i, load_up_to(hidden + i, count) > 0.0f ? load(dh + i) : Vector{});
        });
      }
    });
  }
  if (Operand::kDtype != LILY_FLOAT32) {
    auto *const left = static_cast<Operand::Element *>(pass.dh_left.data);
    for (int64_t i = begin * pass.rank_pitch; i < end * pass.rank_pitch; i += kLanes)
      store(left + i, load(pass.dh + i));
  }
}

}  // namespace
}  // namespace lily::cpu
