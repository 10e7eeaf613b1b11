// Forward, between the phases where the rank is larger than a tile: the router, from hidden activations in memory. A
// block takes the same tokens as a block of the first phase, a warp the logits of one token after the other.
#pragma once

#include "forward_shrink.cuh"

namespace lily::cuda {

struct ForwardRoute {
  Operand hidden;  // M x r
  int tokens;
  int tile_tokens;
  Route route;
};

// `Unused` keeps the definition one per translation unit that asks for it.
template <typename Unused>
__global__ __launch_bounds__(kThreads) void forward_route(const __grid_constant__ ForwardRoute call) {
  extern __shared__ __align__(16) char shared[];
  auto *logits = reinterpret_cast<float *>(shared);
  const Route &route = call.route;
  const int token = blockIdx.x * call.tile_tokens;
  const int count = min(call.tile_tokens, call.tokens - token);
  const int lane = threadIdx.x % kWarp;
  for (int t = threadIdx.x / kWarp; t < count; t += kWarps) {
    for (int e = 0; e < route.experts; ++e) {
      float sum = 0;
      for (int k = 4 * lane; k < route.rank; k += 4 * kWarp) {
        float h[4], r[4];
        load_four(call.hidden, token + t, k, route.rank, h);
        load_four(route.router, e, k, route.rank, r);
#pragma unroll
        for (int v = 0; v < 4; ++v) sum = fmaf(h[v], r[v], sum);
      }
      sum = sum_over_warp(sum);
      if (lane == 0) logits[t * (route.experts | 1) + e] = sum;
    }
  }
  finish_route(route, logits, token, count, blockIdx.x);
}

}  // namespace lily::cuda
