// Forward, between the two phases, if the rank is larger than one tile: the router, from h in global memory. Each block
// owns the same tokens as a block of the first phase; each warp computes the logits of kWarpTokens tokens at a time.
#pragma once

#include "cuda/kernels/forward_shrink.cuh"

namespace lily::cuda {

struct ForwardRoute {
  Operand hidden;  // M x r
  int tokens;
  int tile_tokens;
  Route route;
};

// Logits of `count` tokens. Each lane has kLoadsInFlight 4-element loads in flight for each of the warp's kWarpTokens
// tokens and for R.
template <typename H, typename R, bool kWhole>
__device__ inline void route_tokens(const ForwardRoute &call, float *logits, int token, int count) {
  constexpr int kWarpTokens = 4, kLoadsInFlight = kWhole ? 2 : 1, kStep = 4 * kWarp;
  const Route &route = call.route;
  const int lane = threadIdx.x % kWarp;
  const H *hidden = static_cast<const H *>(call.hidden.data) + token * call.hidden.pitch;
#pragma unroll 1
  for (int first = threadIdx.x / kWarp; first < count; first += kWarpTokens * kWarps) {
#pragma unroll 1
    for (int e = 0; e < route.experts; ++e) {
      const R *router = static_cast<const R *>(route.router.data) + e * route.router.pitch;
      float sum[kWarpTokens] = {};
#pragma unroll 1
      for (int begin = 4 * lane; begin < route.rank; begin += kLoadsInFlight * kStep) {
        Vec4<R> r_raw[kLoadsInFlight];
        Vec4<H> h_raw[kLoadsInFlight][kWarpTokens];
#pragma unroll
        for (int i = 0; i < kLoadsInFlight; ++i) {
          const int k = min(begin + i * kStep, (route.rank - 1) / 4 * 4);
          r_raw[i] = load_raw<kWhole>(router + k, route.rank - k);
#pragma unroll
          for (int n = 0; n < kWarpTokens; ++n)
            h_raw[i][n] =
                load_raw<kWhole>(hidden + min(first + n * kWarps, count - 1) * call.hidden.pitch + k, route.rank - k);
        }
#pragma unroll
        for (int i = 0; i < kLoadsInFlight; ++i) {
          const bool adds = begin + i * kStep < route.rank;
          float r[4];
          convert<R>(r_raw[i], r);
#pragma unroll
          for (int n = 0; n < kWarpTokens; ++n) {
            float h[4];
            convert<H>(h_raw[i][n], h);
#pragma unroll
            for (int v = 0; v < 4; ++v) sum[n] = adds ? fmaf(h[v], r[v], sum[n]) : sum[n];
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kWarpTokens; ++n) {
        const float logit = sum_over_warp(sum[n]);
        const int t = first + n * kWarps;
        if (lane == 0 && t < count) logits[t * (route.experts | 1) + e] = logit;
      }
    }
  }
}

// The template parameter `Unused` lets each translation unit that uses the kernel instantiate it.
template <typename Unused>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_route(const __grid_constant__ ForwardRoute call) {
  extern __shared__ __align__(16) char shared[];
  auto *logits = reinterpret_cast<float *>(shared);
  const Route &route = call.route;
  const int token = blockIdx.x * call.tile_tokens;
  const int count = min(call.tile_tokens, call.tokens - token);
  wait_for_previous_launch();
  with_type(AllTypes{}, call.hidden.dtype, [&](auto h) {
    using H = decltype(h);
    using RouterTypes = std::conditional_t<std::is_same_v<H, float>, AllTypes, Types<float, H>>;
    with_type(RouterTypes{}, route.router.dtype, [&](auto r) {
      with_whole(route.rank % 4 == 0 && has_vec4(call.hidden) && has_vec4(route.router),
                 [&](auto whole) { route_tokens<H, decltype(r), decltype(whole)::value>(call, logits, token, count); });
    });
  });
  allow_next_launch();
  finish_route(route, logits, token, count, blockIdx.x);
}

}  // namespace lily::cuda
