// u = w_t (x) h_t, with weights per token and a large rank: u_t[e r + k] = w_te h_t[k], in the type of a tile, so that
// y (+)= s u B is a product of stored matrices. A list with a factor c_t for each token has c_t h_t instead, with any
// rank, where forward_decode does not apply it: one expert, whose weight is the factor. Symbols as in docs/math.md. A
// warp has a token.
//
// Global memory traffic: h and the weights read once, u written once.
#pragma once

#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

struct FormU {
  Operand hidden;  // M x r, of u's type; vectors of four elements are aligned
  TokenWeights weights;
  Output u;  // M x E r, out, rows padded with zeros
  int tokens, rank;
};

__device__ __forceinline__ void form_u_block(const FormU &call, const Block &at) {
  const int token = at.x * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  wait_for_previous_launch();
  if (token >= call.tokens) return;
  const float *weights = call.weights.of(token);
  with_type(AllTypes{}, call.u.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *from = static_cast<const T *>(call.hidden.data) + token * call.hidden.pitch;
    T *to = static_cast<T *>(call.u.data) + token * call.u.pitch;
    for (int k = static_cast<int>(threadIdx.x) % kWarp * 4; k < call.rank; k += 4 * kWarp) {
      float h[4];
      load_vec4(from + k, call.rank - k, true, h);
#pragma unroll 4
      for (int e = 0; e < call.weights.experts; ++e) {
        const float w = weights == nullptr ? 0.0f : weights[e];
        const float value[4] = {w * h[0], w * h[1], w * h[2], w * h[3]};
        store_vec4(to + e * call.rank + k, call.rank - k, call.rank % 4 == 0, value);
      }
    }
    const int columns = call.weights.experts * call.rank, padding = static_cast<int>(threadIdx.x) % kWarp;
    if (columns + padding < call.u.pitch) to[columns + padding] = from_float<T>(0.0f);
  });
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void form_u(const __grid_constant__ FormU call) {
  form_u_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void form_u_list(const __grid_constant__ List<FormU> list) {
  run_part(list, [](const FormU &call, const Block &at) { form_u_block(call, at); });
}

}  // namespace lily::cuda
