// Forward of few tokens (decoding), second phase: everything after x A^T, of which the first phase writes partial
// sums over splits of d_in. Symbols as in docs/math.md.
//
//   h = phi(sum of the partials)   l = h R^T   p = softmax(l)   w = pooled p   y (+)= s h C, or s u B
//
// Each block owns BLOCK_N columns of y. Every block adds the partial sums in order and computes the routing of all
// tokens: a few kilobytes from L2 instead of one more launch. It then combines the experts as it streams its columns of
// B; C is never written to memory. Most rows of the matrix-unit tiles are zeros, but their products cost no extra time,
// and each row has the same bits as in a batch of any size.
//
// Global memory traffic: B once; y written once, and read once if it accumulates; block 0 writes h, p and w.
//
// The loads of y and, with weights per token, of B come first: no launch of the call writes to either, so that they
// overlap with the first phase.
#pragma once

#include "cuda/kernels/combine.cuh"
#include "cuda/kernels/forward_shrink.cuh"
#include "cuda/kernels/pool.cuh"

namespace lily::cuda {

struct ForwardDecode {
  const float *partials;  // splits x M x partial_pitch
  int splits, partial_pitch;
  int tokens, columns;  // M, d_out
  int relu;
  Output hidden;  // for backward; may be null
  Route route;    // `values` may be null
  int pooled;     // 1: one combined projector; 0: weights per token
  int per_token;  // for weights per token: 1 with token routing, 0 if a group's tokens share weights
  PoolKind pool;
  Groups groups;
  Weights weights;     // pooled, without a router
  const float *given;  // G x E: weights per group, without a router
  float *weights_out;  // G x E; may be null
  Experts experts;
  Output y;
  float scale;
};

// Writes h of all tokens to shared memory (`pitch` floats per row) and, from block 0, to `hidden`.
template <typename Engine>
__device__ inline void sum_partials(const ForwardDecode &call, float *product, int pitch) {
  const int rank = call.experts.rank, vec4_per_row = (rank + 3) / 4;
  for (int i = threadIdx.x; i < call.tokens * vec4_per_row; i += kThreads) {
    const int t = i / vec4_per_row, k = i % vec4_per_row * 4;
    float sum[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (int split = 0; split < call.splits; ++split) {
      float partial[4];
      load_vec4(call.partials + (static_cast<int64_t>(split) * call.tokens + t) * call.partial_pitch + k, 4, true,
                partial);
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] += partial[v];
    }
    if (call.relu) {
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] = sum[v] < 0 ? 0.0f : sum[v];  // keeps a NaN
    }
    store_vec4(product + t * pitch + k, 4, true, sum);
    if (blockIdx.x == 0 && call.hidden.data != nullptr)
      store_vec4(typename Engine::Activations{}, call.hidden, t, k, rank, sum);
  }
}

// Computes w of all groups, E + 1 floats per row. Ends with a barrier.
__device__ inline void pool_all(const ForwardDecode &call, const float *values, float *sums) {
  const int experts = call.route.experts, pitch = experts + 1, quads = (experts + 3) / 4;
  const PoolRows rows = {values, experts | 1, experts, call.route.mask, 1};
  __syncthreads();
  for (int i = threadIdx.x / kWarp; i < call.groups.groups * quads; i += kWarps) {
    const int group = i / quads, expert = i % quads * 4;
    const int begin = call.groups.begin(group), end = call.groups.end(group);
    float sum[5] = {0, 0, 0, 0, 0};
    for (int slice = 0; slice < pool_slices(begin, end); ++slice) {
      float share[5];
      pool_slice(rows, begin, end, slice, expert, share);
#pragma unroll
      for (int v = 0; v < 5; ++v) sum[v] += share[v];
    }
    if (threadIdx.x % kWarp != 0) continue;
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (expert + v < experts) sums[group * pitch + expert + v] = sum[v];
    if (expert == 0) sums[group * pitch + experts] = sum[4];
  }
  __syncthreads();
  for (int g = threadIdx.x; g < call.groups.groups; g += kThreads) finish_pool(call.pool, sums + g * pitch, experts);
  __syncthreads();
  if (blockIdx.x != 0 || call.weights_out == nullptr) return;
  for (int i = threadIdx.x; i < call.groups.groups * experts; i += kThreads)
    call.weights_out[i] = sums[i / experts * pitch + i % experts];
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_decode(const __grid_constant__ ForwardDecode call) {
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  __shared__ int group[Tile::kBlockM];
  auto *lhs = reinterpret_cast<Scalar *>(shared);
  Scalar *strip = lhs + Tile::kLhs;
  Scalar *ring = strip + Tile::kStrip;
  const int rank = call.experts.rank, experts = call.experts.experts;
  const int pitch = (rank + 3) / 4 * 4 + 4;
  auto *product = reinterpret_cast<float *>(ring + Tile::kStages * Tile::kRhs);
  float *logits = product + Tile::kBlockM * pitch;
  float *router = logits + Tile::kBlockM * (experts | 1);
  float *sums = router + experts * (rank | 1);
  const int column = blockIdx.x * Tile::kBlockN;
  const int rows = call.pooled ? rank : experts * rank;
  const int steps = (rows + Tile::kBlockK - 1) / Tile::kBlockK;

  const auto fill = [&](int step) {
    if (step < steps && !call.pooled)
      stage_parameters<Engine, Tile::kBlockK, Tile::kBlockN>(ring + step % Tile::kStages * Tile::kRhs, call.experts.b,
                                                             {step * Tile::kBlockK, rows, column, call.columns});
    copy_commit();
  };
  const Window window = {0, call.tokens, column, call.columns};
  if (call.y.accumulate) stage_activations<Engine, Tile::kBlockM, Tile::kBlockN>(strip, call.y.operand(), window);
#pragma unroll 1
  for (int step = 0; step < Tile::kStages - 1; ++step) fill(step);

  wait_for_previous_launch();
  sum_partials<Engine>(call, product, pitch);
  const bool routes = call.route.router.data != nullptr;
  if (routes) {
    form_logits<Engine>(call.route, product, pitch, logits, router, call.tokens);
    Route route = call.route;
    if (blockIdx.x != 0) route.values = nullptr;
    finish_route(route, logits, 0, call.tokens, 0);
    if (!call.per_token) pool_all(call, logits, sums);
  }
  if (call.pooled) {
    if (routes) {
      for (int e = threadIdx.x; e < experts; e += kThreads) weights[e] = sums[e];
    } else {
      compute_weights(weights, call.weights);
      if (blockIdx.x == 0 && call.weights_out != nullptr)
        for (int e = threadIdx.x; e < experts; e += kThreads) call.weights_out[e] = weights[e];
    }
  } else {
    for (int t = threadIdx.x; t < call.tokens; t += kThreads) group[t] = call.per_token ? t : call.groups.of(t);
  }
  // Rows of E weights, per token or per group.
  const float *token_weights = call.per_token ? logits : routes ? sums : call.given;
  const int token_weights_pitch = call.per_token ? experts | 1 : routes ? experts + 1 : experts;

  const int warp = threadIdx.x / kWarp;
  Accumulators<Tile::kBlockM / 16, 1> sum;
  clear(sum);
  for (int step = 0; step < steps; ++step) {
    __syncthreads();  // h and the weights are written; the previous tiles are no longer read
    fill(step + Tile::kStages - 1);
    Scalar *b = ring + step % Tile::kStages * Tile::kRhs;
    const int row = step * Tile::kBlockK;
    if (call.pooled) combine_tile<Engine, Tile::kBlockK, Tile::kBlockN>(b, call.experts, weights, row, column);
    for (int i = threadIdx.x; i < Tile::kBlockM * Tile::kBlockK; i += kThreads) {
      const int t = i / Tile::kBlockK, j = row + i % Tile::kBlockK;
      float value = 0;
      if (t < call.tokens && j < rows) {
        value = product[t * pitch + j % rank];
        if (!call.pooled)
          value = token_weights[group[t] * token_weights_pitch + j / rank] * to_float(from_float<Scalar>(value));
      }
      lhs[place<Scalar, Tile::kBlockK>(t, i % Tile::kBlockK)] = from_float<Scalar>(value);
    }
    copy_wait<Tile::kStages - 1>();
    __syncthreads();
    multiply<Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
        sum, lhs, 0, b, warp * 8, 0, (min(rows - row, Tile::kBlockK) + Engine::kStepK - 1) / Engine::kStepK);
  }
  copy_wait<0>();
  __syncthreads();
  add_scaled<Scalar, Tile::kBlockN>(strip, sum, 0, warp * 8, call.scale, call.y.accumulate);
  __syncthreads();
  unstage<Engine, Tile::kBlockM, Tile::kBlockN>(strip, call.y, window);
}

}  // namespace lily::cuda
