// Forward, first phase: the hidden activations and what the router says of each token.
//
//   h = phi(x A^T)    l = h R^T    p = softmax(l)    and, for one pooling group, per block: sum over its kept tokens of
//   p
//
// A block owns a tile of tokens. Logits come from the float32 product in shared memory, before it is rounded. Partial
// sums are written, never added atomically: the next phase adds them in the order of the blocks. Of few tokens blocks
// share the long dimension, and the next phase (forward_decode.cuh) does the rest.
//
// Passes over memory: x once, A once per block from the second-level cache; h, p written once.
#pragma once

#include "shrink.cuh"
#include "token_weights.cuh"

namespace lily::cuda {

struct Route {
  Operand router;  // E x r; data null: there is none, or a kernel of its own does it
  int experts;
  int rank;
  int pools_logits;     // 1: pooling sums the logits, no token has a softmax
  float *values;        // M x E, out: probabilities, or logits where those are pooled; may be null
  float *partials;      // (E + 1) x tiles, out: sums over each tile's kept tokens, and their number; may be null
  const uint8_t *mask;  // may be null
};

struct ForwardShrink {
  ShrinkOperands operands;
  int relu;
  Output hidden;  // what backward needs; may be null
  Output expand;  // what the next phase reads, if that is not `hidden`; may be null
  Route route;
  // Few tokens: blocks share the long dimension by chunks, and leave their sums to the next phase. Nothing else is
  // done.
  float *partials;  // chunks x M x part_pitch, out; null: a block has all of it
  int partial_pitch;
};

// Bytes of shared memory that routing needs beside the logits' source.
inline int route_bytes(int tokens, int experts, int rank) {
  return (tokens * (experts | 1) + experts * (rank | 1)) * static_cast<int>(sizeof(float));
}

// From a tile's logits in shared memory (pitch E | 1) to probabilities and partial sums. Begins with a barrier.
__device__ inline void finish_route(const Route &route, float *logits, int token, int count, int tile) {
  const int pitch = route.experts | 1;
  __syncthreads();
  if (!route.pools_logits) {
    for (int t = threadIdx.x; t < count; t += kThreads) softmax(logits + t * pitch, route.experts);
    __syncthreads();
  }
  if (route.values != nullptr) {
    float *values = route.values + static_cast<int64_t>(token) * route.experts;
    for (int i = threadIdx.x; i < count * route.experts; i += kThreads)
      values[i] = logits[i / route.experts * pitch + i % route.experts];
  }
  if (route.partials != nullptr && threadIdx.x <= route.experts) {
    const int e = threadIdx.x;
    float sum = 0;
    for (int t = 0; t < count; ++t)
      if (route.mask == nullptr || route.mask[token + t] != 0) sum += e < route.experts ? logits[t * pitch + e] : 1.0f;
    route.partials[static_cast<int64_t>(e) * gridDim.x + tile] = sum;
  }
}

// The logits of `count` tokens from h in shared memory (product_pitch floats a row); `router` takes R (pitch r | 1).
// Begins with h as this thread sees it, ends before a barrier.
__device__ inline void form_logits(const Route &route, const float *product, int product_pitch, float *logits,
                                   float *router, int count) {
  const int router_pitch = route.rank | 1;
  for (int i = threadIdx.x; i < route.experts * ((route.rank + 3) / 4); i += kThreads) {
    const int e = i / ((route.rank + 3) / 4), k = i % ((route.rank + 3) / 4) * 4;
    float value[4];
    load_vec4(route.router, e, k, route.rank, value);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (k + v < route.rank) router[e * router_pitch + k + v] = value[v];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * route.experts; i += kThreads) {
    const int t = i / route.experts, e = i % route.experts;
    float sum = 0;
    for (int k = 0; k < route.rank; ++k) sum = fmaf(product[t * product_pitch + k], router[e * router_pitch + k], sum);
    logits[t * (route.experts | 1) + e] = sum;
  }
}

// Leaves h of the tile in shared memory as `shrink` does, and behind it, at Tile::kProduct, what finish_route left of
// the logits.
template <typename Tile>
__device__ inline const float *shrink_and_route(char *shared, const ForwardShrink &call, int token, int token_end,
                                                int row) {
  const int count = token_end - token;
  const int columns = min(Tile::kBlockN, call.operands.rows - row);
  DepthTiles tiles = all_depth_tiles<Tile>(call.operands);
  if (call.partials != nullptr) {
    tiles.first = blockIdx.z * kSplitTiles;
    tiles.last = min(tiles.first + kSplitTiles, tiles.last);
  }
  // The block owns what it wrote: phi in place is visible after the barriers below.
  auto *product = const_cast<float *>(shrink<Tile>(shared, call.operands, token, token_end, row, tiles));
  for (int i = threadIdx.x; i < count * ((columns + 3) / 4); i += kThreads) {
    const int t = i / ((columns + 3) / 4), n = i % ((columns + 3) / 4) * 4;
    float value[4];
    load_vec4(product + t * Tile::kProductPitch + n, 4, true, value);
    if (call.partials != nullptr) {
      const int64_t partial_row = static_cast<int64_t>(blockIdx.z) * call.operands.tokens + token + t;
      store_vec4(call.partials + partial_row * call.partial_pitch + row + n, 4, true, value);
      continue;
    }
    if (call.relu) {
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] = value[v] < 0 ? 0.0f : value[v];  // not a number stays so
      store_vec4(product + t * Tile::kProductPitch + n, 4, true, value);
    }
    if (call.hidden.data != nullptr) store_vec4(call.hidden, token + t, row + n, row + columns, value);
    if (call.expand.data != nullptr) store_vec4(call.expand, token + t, row + n, row + columns, value);
  }
  const Route &route = call.route;
  if (route.router.data == nullptr) return product;

  // The ring is done with: its memory takes the router and the logits.
  float *logits = product + Tile::kProduct;
  form_logits(route, product, Tile::kProductPitch, logits, logits + Tile::kBlockM * (route.experts | 1), count);
  finish_route(route, logits, token, count, blockIdx.x);
  return product;
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_shrink(const __grid_constant__ ForwardShrink call) {
  extern __shared__ __align__(16) char shared[];
  const int token = blockIdx.x * call.operands.tile_tokens;
  const int token_end = min(token + call.operands.tile_tokens, call.operands.tokens);
  shrink_and_route<Tile>(shared, call, token, token_end, blockIdx.y * Tile::kBlockN);
}

}  // namespace lily::cuda
