// Forward, between the two phases: what needs more of h_t than a block of the first phase computes. Symbols as in
// docs/math.md. Each block owns a few tokens.
//
//   from partial sums   h = phi(their sum in order); and with a router l, p and the partial sums of p, from h before it
//                       is rounded
//   from h              large ranks: l, p and the partial sums of p; each warp computes the logits of kWarpTokens
//                       tokens at a time
//
// Global memory traffic: the partial sums, from L2; h and p written once; R once per block. Or h once per expert.
#pragma once

#include "cuda/kernels/forward_shrink.cuh"

namespace lily::cuda {

struct ForwardRoute {
  HiddenPartials partials;  // data null: from h
  Output saved;             // h for backward, out; may be null
  Output expand;            // for the next phase, if that cannot read `saved`, out; may be null
  Operand hidden;           // M x r, if there are no partial sums
  int tokens;
  int tile_tokens;
  Route route;  // router null: only h
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

// h of `count` tokens, and their logits if there is a router.
__device__ inline void form_hidden(const ForwardRoute &call, float *product, float *logits, int token, int count) {
  const Route &route = call.route;
  float *router = logits + call.tile_tokens * (route.experts | 1);
  const bool routes = route.router.data != nullptr;
  if (routes) load_router(AllTypes{}, route, router);
  wait_for_previous_launch();
  const int rank = call.partials.rank;
  const int padded = call.expand.data != nullptr ? padded_end(call.expand, rank, rank) : rank;
  sum_partials(call.partials, product, token, count, [&](int t, int k, float(&h)[4]) {
    if (call.saved.data != nullptr) store_vec4(AllTypes{}, call.saved, t, k, rank, h);
    if (call.expand.data == nullptr) return;
    clear_beyond(h, rank - k);
    store_vec4(AllTypes{}, call.expand, t, k, padded, h);
    constexpr float kZeros[4] = {};
    if (k + 4 >= rank && k + 4 < padded) store_vec4(AllTypes{}, call.expand, t, k + 4, padded, kZeros);
  });
  if (routes) form_logits(route, product, hidden_row(route.rank), logits, router, count);
}

__device__ __forceinline__ void forward_route_block(const ForwardRoute &call, const Block &at) {
  extern __shared__ __align__(16) char shared[];
  auto *logits = reinterpret_cast<float *>(shared);
  const Route &route = call.route;
  const int token = at.x * call.tile_tokens;
  const int count = min(call.tile_tokens, call.tokens - token);
  if (call.partials.data != nullptr) {
    float *product = logits;
    logits += call.tile_tokens * hidden_row(call.partials.rank);
    form_hidden(call, product, logits, token, count);
  } else {
    wait_for_previous_launch();
    with_type(AllTypes{}, call.hidden.dtype, [&](auto h) {
      using H = decltype(h);
      using RouterTypes = std::conditional_t<std::is_same_v<H, float>, AllTypes, Types<float, H>>;
      with_type(RouterTypes{}, route.router.dtype, [&](auto r) {
        with_whole(route.rank % 4 == 0 && has_vec4(call.hidden) && has_vec4(route.router), [&](auto whole) {
          route_tokens<H, decltype(r), decltype(whole)::value>(call, logits, token, count);
        });
      });
    });
  }
  allow_next_launch();
  if (route.router.data != nullptr) finish_route(route, logits, token, count, at.x, at.grid_x);
}

// The template parameter `Unused` lets each translation unit that uses the kernel instantiate it.
template <typename Unused>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_route(const __grid_constant__ ForwardRoute call) {
  forward_route_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void forward_route_list(const __grid_constant__ List<ForwardRoute> list) {
  run_part(list, [](const ForwardRoute &call, const Block &at) { forward_route_block(call, at); });
}

}  // namespace lily::cuda
