// Forward, first phase: h, and the router's result for each token. Symbols as in docs/math.md.
//
//   h = phi(x A^T)    l = h R^T    p = softmax(l)
//   one pooling group: partial sums, per block, of p over the block's kept tokens
//
// Each block owns BLOCK_M tokens. Logits are computed from the float32 product in shared memory, before h is rounded.
// Partial sums are written to memory and the next phase adds them in block order; there are no atomics.
//
// If there are too few tokens to fill the GPU, blocks split d_in as well (z of the grid), and write partial sums of h.
// They also do so without splitting d_in if R needs more rows of A than a block has. forward_decode.cuh or
// forward_route.cuh adds them in order, so that h has the same bits in all cases.
//
// Global memory traffic: x once; A once per block, from L2; h and p written once.
#pragma once

#include "cuda/kernels/shrink.cuh"
#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

struct Route {
  Operand router;  // E x r; data null: no router, or a separate kernel computes it
  int experts;
  int rank;
  int pools_logits;     // 1: pooling sums the logits, and tokens have no softmax
  float *values;        // M x E, out: probabilities, or logits with pools_logits; may be null
  float *partials;      // (E + 1) x tiles, out: per tile, sums over its kept tokens and their number; may be null
  const uint8_t *mask;  // may be null
};

struct ForwardShrink {
  ShrinkOperands operands;
  Dropout dropout;
  float factor;  // of h, before phi
  int relu;
  Output hidden;  // for backward; may be null
  Output expand;  // for the next phase, if that cannot read `hidden`; may be null
  Route route;
  // Partial sums of h over the splits of d_in, before phi. If they are written, the block does nothing further.
  float *partials;  // splits x M x partial_pitch, out; may be null
  int partial_pitch;
};

// Computes probabilities and partial sums from a tile's logits in shared memory (pitch E | 1). Begins with a barrier.
__device__ inline void finish_route(const Route &route, float *logits, int token, int count, int tile, int tiles) {
  const int pitch = route.experts | 1;
  __syncthreads();
  if (!route.pools_logits) {
    for (int t = threadIdx.x; t < count; t += blockDim.x) softmax(logits + t * pitch, route.experts);
    __syncthreads();
  }
  if (route.values != nullptr) {
    float *values = route.values + static_cast<int64_t>(token) * route.experts;
    for (int i = threadIdx.x; i < count * route.experts; i += blockDim.x)
      values[i] = logits[i / route.experts * pitch + i % route.experts];
  }
  if (route.partials != nullptr && threadIdx.x <= route.experts) {
    const int e = threadIdx.x;
    float sum = 0;
    for (int t = 0; t < count; ++t)
      if (route.mask == nullptr || route.mask[token + t] != 0) sum += e < route.experts ? logits[t * pitch + e] : 1.0f;
    route.partials[static_cast<int64_t>(e) * tiles + tile] = sum;
  }
}

// Copies R to `router` in shared memory (pitch r | 1).
template <typename... T>
__device__ inline void load_router(Types<T...> types, const Route &route, float *router) {
  const int router_pitch = route.rank | 1;
  with_type(types, route.router.dtype, [&](auto tag) {
    const auto *from = static_cast<const decltype(tag) *>(route.router.data);
    for (int i = threadIdx.x; i < route.experts * ((route.rank + 3) / 4); i += blockDim.x) {
      const int e = i / ((route.rank + 3) / 4), k = i % ((route.rank + 3) / 4) * 4;
      float value[4];
      load_vec4(from + e * route.router.pitch + k, route.rank - k, route.router.aligned16, value);
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (k + v < route.rank) router[e * router_pitch + k + v] = value[v];
    }
  });
}

// Computes the logits of `count` tokens from h in shared memory (product_pitch floats per row) and R (load_router). On
// entry both need only be visible to the thread that wrote them; the caller must synchronise before it reads `logits`.
__device__ inline void form_logits(const Route &route, const float *product, int product_pitch, float *logits,
                                   const float *router, int count) {
  const int router_pitch = route.rank | 1;
  __syncthreads();
  for (int i = threadIdx.x; i < count * route.experts; i += blockDim.x) {
    const int t = i / route.experts, e = i % route.experts;
    float sum = 0;
    for (int k = 0; k < route.rank; ++k) sum = fmaf(product[t * product_pitch + k], router[e * router_pitch + k], sum);
    logits[t * (route.experts | 1) + e] = sum;
  }
}

// Partial sums, from which forward_decode and forward_route compute h.
struct HiddenPartials {
  const float *data;  // splits x M x pitch
  int splits, pitch;
  int tokens, rank;  // M, r
  float factor;      // of h, before phi
  int relu;
};

// Floats from one row of h in shared memory to the next.
__device__ inline int hidden_row(int rank) { return (rank + 3) / 4 * 4 + 4; }

// product[t] = h of token `token` + t (hidden_row floats per row) for `count` tokens. Calls store(token, k, h) for each
// vector of four elements.
template <typename Store>
__device__ inline void sum_partials(const HiddenPartials &from, float *product, int token, int count,
                                    const Store &store) {
  const int vec4_per_row = (from.rank + 3) / 4, pitch = hidden_row(from.rank);
  for (int i = threadIdx.x; i < count * vec4_per_row; i += kThreads) {
    const int t = i / vec4_per_row, k = i % vec4_per_row * 4;
    const float *first = from.data + static_cast<int64_t>(token + t) * from.pitch + k;
    float sum[4];
    add_partials<true>(sum, first, static_cast<int64_t>(from.tokens) * from.pitch, from.splits, 4);
#pragma unroll
    for (int v = 0; v < 4; ++v) sum[v] *= from.factor;
    if (from.relu) {
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] = sum[v] < 0 ? 0.0f : sum[v];  // keeps a NaN
    }
    store_vec4(product + t * pitch + k, 4, true, sum);
    store(token + t, k, sum);
  }
}

// Computes h of the tile in shared memory, as `shrink` does. The `logits` of finish_route follow at Tile::kProduct.
template <typename Tile, bool kDrops>
__device__ inline const float *shrink_and_route(char *shared, const ForwardShrink &call, int token, int token_end,
                                                int row, const Block &at) {
  const int count = token_end - token;
  const int columns = min(Tile::kBlockN, call.operands.rows - row);
  DepthTiles tiles = all_depth_tiles<Tile>(call.operands);
  if (at.grid_z > 1) {
    tiles.first = at.z * Tile::kSplitSteps;
    tiles.last = min(tiles.first + Tile::kSplitSteps, tiles.last);
  }
  // The block owns this memory. The barriers below make the in-place phi visible to all threads.
  auto *product =
      const_cast<float *>(shrink<Tile, kDrops>(shared, call.operands, token, token_end, row, tiles, call.dropout));
  allow_next_launch();
  const int columns_end =
      call.expand.data != nullptr ? padded_end(call.expand, row + columns, call.operands.rows) - row : columns;
  const int vec4_per_row = (columns_end + 3) / 4;
  for (int i = threadIdx.x; i < count * vec4_per_row; i += Tile::kThreads) {
    const int t = i / vec4_per_row, n = i % vec4_per_row * 4;
    float value[4];
    load_vec4(product + t * Tile::kProductPitch + n, 4, true, value);
    if (call.partials != nullptr) {
      const int64_t partial_row = static_cast<int64_t>(at.z) * call.operands.tokens + token + t;
      store_vec4(call.partials + partial_row * call.partial_pitch + row + n, 4, true, value);
      continue;
    }
    const bool drops = kDrops && call.dropout.drops();
    if (drops) {
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] *= call.factor;
    }
    if (call.relu) {
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] = value[v] < 0 ? 0.0f : value[v];  // keeps a NaN
    }
    if (drops || call.relu) {
      store_vec4(product + t * Tile::kProductPitch + n, 4, true, value);
    }
    if (call.hidden.data != nullptr)
      store_vec4(typename Tile::Engine::Activations{}, call.hidden, token + t, row + n, row + columns, value);
    clear_beyond(value, columns - n);
    if (call.expand.data != nullptr)
      store_vec4(Types<typename Tile::Scalar>{}, call.expand, token + t, row + n, row + columns_end, value);
  }
  const Route &route = call.route;
  if (route.router.data == nullptr) return product;

  // The ring is no longer used: its memory holds R and the logits.
  float *logits = product + Tile::kProduct;
  float *router = logits + Tile::kBlockM * (route.experts | 1);
  load_router(typename Tile::Engine::Parameters{}, route, router);
  form_logits(route, product, Tile::kProductPitch, logits, router, count);
  finish_route(route, logits, token, count, at.x, at.grid_x);
  return product;
}

// kDrops: there may be dropout. Lists have none.
template <typename Tile, bool kDrops>
__device__ __forceinline__ void forward_shrink_block(const ForwardShrink &call, const Block &at) {
  if constexpr (!kHasCode<Tile, Tile::kBytes>) return stop_without_code();
  extern __shared__ __align__(16) char shared[];
  const int token = at.x * call.operands.tile_tokens;
  const int token_end = min(token + call.operands.tile_tokens, call.operands.tokens);
  wait_for_previous_launch();
  // The next launch can load R, and forward_decode as much of B as fits, while these blocks compute.
  if (call.partials != nullptr) allow_next_launch();
  shrink_and_route<Tile, kDrops>(shared, call, token, token_end, at.y * Tile::kBlockN, at);
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kShrinkBlocks) void forward_shrink(const __grid_constant__ ForwardShrink call) {
  forward_shrink_block<Tile, true>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kShrinkBlocks) void forward_shrink_list(
    const __grid_constant__ List<ForwardShrink> list) {
  run_part(list, [](const ForwardShrink &call, const Block &at) { forward_shrink_block<Tile, false>(call, at); });
}

}  // namespace lily::cuda
