// The gradient of weights that depend on no token: blocks of `reduce`, one for each group. Symbols as in docs/math.md.
//
//   dw_g = <B_e, D_g>                          given weights; the sum of partial sums, or over the sequence of dw_te
//   dz_e = w_e sum_j w_j (dw_e - dw_j)         logits of a learned mixture, which have one group
//
// Global memory traffic: the partial sums, or a row of E for each token, once.
#pragma once

#include "cuda/kernels/pool.cuh"

namespace lily::cuda {

struct MixtureGradient {
  const float *d_weights;  // E x partial_count partial sums of dw; with `by_token` M x E, the share of each token
  int partial_count;
  int by_token;
  int experts;
  Groups groups;         // with `by_token`
  const float *weights;  // E, w of the logits; null: the weights are given
  Output out;            // G x E; of logits E x 1
};

__device__ inline void mixture_gradient_block(const MixtureGradient &call, int group) {
  __shared__ float d_weights[kMostExperts + 1];
  const int experts = call.experts;
  if (call.by_token) {
    const PoolRows rows = {call.d_weights, experts, experts, nullptr, 0};
    pool_sums(rows, call.groups.begin(group), call.groups.end(group), d_weights);
  } else {
    sum_rows(d_weights, call.d_weights, experts, call.partial_count);
    __syncthreads();
  }
  const float *w = call.weights;
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    float value[4] = {d_weights[e], 0, 0, 0};
    if (w != nullptr) {
      value[0] = 0;
      for (int j = 0; j < experts; ++j) value[0] = fmaf(w[j], d_weights[e] - d_weights[j], value[0]);
      value[0] *= w[e];
    }
    const int column = w != nullptr ? 0 : e;
    store_vec4(call.out, w != nullptr ? e : group, column, column + 1, value);
  }
}

}  // namespace lily::cuda
