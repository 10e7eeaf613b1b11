#include "cpu/pooling.h"

#include <math.h>

#include <algorithm>

#include "core/problem.h"

namespace lily::cpu {
namespace {

int64_t kept_tokens(const Groups &groups, int64_t group, const uint8_t *mask) {
  if (mask == nullptr) return groups.end(group) - groups.begin(group);
  int64_t kept = 0;
  for (int64_t t = groups.begin(group); t < groups.end(group); ++t) kept += mask[t] != 0;
  return kept;
}

void softmax(double *values, int64_t count) {
  const double largest = *std::max_element(values, values + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i] = exp(values[i] - largest);
  for (int64_t i = 0; i < count; ++i) values[i] /= sum;
}

// Replaces dw by the gradient of the logits, w * (dw - <w, dw>). Relative to dw of the largest weight, for the reason
// that softmax_gradient of backward_hidden.h has: the float32 weights that were saved do not add up to 1 exactly, so
// that double alone does not help.
void softmax_gradient(const float *weights, int64_t experts, double *values) {
  const double largest = values[std::max_element(weights, weights + experts) - weights];
  double mean = 0;
  for (int64_t e = 0; e < experts; ++e) mean += static_cast<double>(weights[e]) * (values[e] - largest);
  for (int64_t e = 0; e < experts; ++e) values[e] = static_cast<double>(weights[e]) * ((values[e] - largest) - mean);
}

}  // namespace

void pool_weights(const ForwardPass &pass, int64_t, float *) {
  float *const weights = pass.weights;
  const lily_problem &problem = pass.call->problem;
  const int64_t experts = problem.experts;
  if (problem.routing == LILY_ROUTING_UNIFORM) {
    std::fill(weights, weights + experts, 1.0f / static_cast<float>(experts));
    return;
  }
  if (problem.routing == LILY_ROUTING_LEARNED) {
    double values[kMaxExperts];
    std::copy(pass.router_packed, pass.router_packed + experts, values);
    softmax(values, experts);
    std::transform(values, values + experts, weights, [](double value) { return static_cast<float>(value); });
    return;
  }
  for (int64_t group = 0; group < problem.groups; ++group) {
    double sums[kMaxExperts] = {};
    const int64_t kept = kept_tokens(pass.groups, group, pass.call->tokens.mask);
    if (kept > 0) {
      for (int64_t tile = pass.groups.first_tile(group); tile < pass.groups.first_tile(group + 1); ++tile) {
        for (int64_t e = 0; e < experts; ++e) sums[e] += pass.pool_sums[tile * experts + e];
      }
      if (problem.pool == LILY_POOL_LOGITS) {
        softmax(sums, experts);
      } else {
        for (int64_t e = 0; e < experts; ++e) sums[e] /= static_cast<double>(kept);
      }
    }
    for (int64_t e = 0; e < experts; ++e) weights[group * experts + e] = static_cast<float>(sums[e]);
  }
}

void compute_d_pooled(const BackwardPass &pass, int64_t, float *) {
  const lily_problem &problem = pass.call->problem;
  const int64_t experts = problem.experts;
  const bool is_mean = has_router(problem) && problem.pool == LILY_POOL_PROBABILITIES;
  for (int64_t group = 0; group < problem.groups; ++group) {
    double values[kMaxExperts] = {};
    const int64_t kept = kept_tokens(pass.groups, group, pass.call->tokens.mask);
    if (kept > 0) {
      for (int64_t part = 0; part < pass.d_weights.count; ++part) {
        for (int64_t e = 0; e < experts; ++e) {
          values[e] += pass.d_weights.partials[(part * pass.groups.count + group) * experts + e];
        }
      }
      if (is_mean) {
        for (int64_t e = 0; e < experts; ++e) values[e] /= static_cast<double>(kept);
      } else if (problem.routing != LILY_ROUTING_FIXED) {
        softmax_gradient(pass.call->weights + group * experts, experts, values);
      }
    }
    for (int64_t e = 0; e < experts; ++e) pass.d_pooled[group * experts + e] = static_cast<float>(values[e]);
  }
}

}  // namespace lily::cpu
