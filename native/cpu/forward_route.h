// From the partial sums of h to everything that the tokens decide, a block of tokens at a time:
//
//   h_t = phi(sum over slabs of partial)      hidden, M x r; what follows takes it as rounded to hidden's type
//   p_t = softmax(h_t R^T)                    probabilities, M x E; not with pool `logits`
//   pool_sums[block] = sum of p_t (or of the logits) over the tokens of the block that the mask keeps
//   u_t = p_t (x) h_t                         mixed_hidden, M x E r, token routing only
#pragma once

#include "cpu/mixture.h"

namespace lily::cpu {
namespace {

LILY_INLINE int64_t route_scratch(const ForwardPass &pass) {
  return pass.hidden.dtype == LILY_FLOAT32 ? 0 : kTileRows * pass.rank_pitch;
}

void pack_router(const ForwardPass &pass) {
  transpose<Floats>(pass.call->problem.experts, pass.call->problem.rank, pass.call->router, 1.0f, pass.router_packed,
                    pass.expert_pitch);
}

LILY_INLINE void sum_hidden(const ForwardPass &pass, int64_t token) {
  const lily_problem &problem = pass.call->problem;
  const bool relu = problem.activation == LILY_ACTIVATION_RELU;
  const float *first = pass.partial + token * pass.rank_pitch;
  with_element(pass.hidden.dtype, [&](auto element) __attribute__((always_inline)) {
    auto *const hidden = static_cast<decltype(element) *>(pass.hidden.data) + token * problem.rank;
    for_vectors(problem.rank, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
      Vector sum = load(first + i);
      for (int64_t slab = 1; slab < pass.partial_count; ++slab) {
        sum += load(first + slab * problem.tokens * pass.rank_pitch + i);
      }
      if (relu) sum = sum < 0.0f ? Vector{} : sum;
      store_up_to(hidden + i, sum, count);
    });
  });
}

// In place, over the first `experts` of the padded row.
LILY_INLINE void softmax(float *row, int64_t experts) {
  float largest = row[0];
  for (int64_t e = 1; e < experts; ++e) largest = row[e] > largest ? row[e] : largest;
  for (int64_t e = 0; e < experts; e += kLanes) store(row + e, exp_of_nonpositive(load(row + e) - largest));
  float sum = 0.0f;
  for (int64_t e = 0; e < experts; ++e) sum += row[e];
  for (int64_t e = 0; e < experts; ++e) row[e] /= sum;
}

void route(const ForwardPass &pass, int64_t block, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const int64_t group = pass.groups.of_block(block);
  const int64_t begin = pass.groups.begin(group) + (block - pass.groups.first_block(group)) * kTokenBlock;
  const int64_t end = minimum(pass.groups.end(group), begin + kTokenBlock);
  for (int64_t t = begin; t < end; ++t) sum_hidden(pass, t);
  if (pass.router_packed == nullptr) return;

  float rows[kTokenBlock * kMaxExperts];  // logits, then probabilities
  const int64_t pitch = pass.expert_pitch;
  for (int64_t t = begin; t < end; t += kTileRows) {
    const int64_t tokens = minimum(kTileRows, end - t);
    const Left<Floats> left = left_rows<Floats>(from(pass.hidden, t, 0), tokens, problem.rank, scratch);
    for (int64_t e = 0; e < pitch; e += kPanel) {
      multiply_rows(tokens, minimum(kPanel, pitch - e) / kLanes, problem.rank, left, pass.router_packed + e, pitch,
                    rows + (t - begin) * pitch + e, pitch, false);
    }
  }
  if (problem.pool == LILY_POOL_PROBABILITIES) {
    for (int64_t t = begin; t < end; ++t) {
      float *row = rows + (t - begin) * pitch;
      softmax(row, problem.experts);
      if (pass.probabilities == nullptr) continue;
      for (int64_t e = 0; e < problem.experts; ++e) pass.probabilities[t * problem.experts + e] = row[e];
    }
  }
  if (pass.mixed_hidden.data != nullptr) {
    for (int64_t t = begin; t < end; ++t) {
      write_mixed_hidden(problem, pass.hidden, t, rows + (t - begin) * pitch, pass.mixed_hidden);
    }
    return;
  }
  float *sums = pass.pool_sums + block * problem.experts;
  clear(sums, problem.experts);
  for (int64_t t = begin; t < end; ++t) {
    if (pass.call->tokens.mask != nullptr && pass.call->tokens.mask[t] == 0) continue;
    for (int64_t e = 0; e < problem.experts; ++e) sums[e] += rows[(t - begin) * pitch + e];
  }
}

}  // namespace
}  // namespace lily::cpu
