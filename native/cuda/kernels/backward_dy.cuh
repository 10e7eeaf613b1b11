// Backward, first phase: every product that reads dy. Symbols as in docs/math.md.
//
// One launch has both kinds of blocks, so that dy is loaded from memory once as long as it fits into L2:
//
//   token blocks    q_t = s dy_t C^T                                      (one pooling group)
//                   v_t = s dy_t B^T, q_t = sum_e w_te v_te,
//                   dw_te = <h_t, v_te>                                   (weights per token)
//                   dh and dl, if dw is known or not required
//   column blocks   D = s h^T dy, and partial sums of dw_e = <B_e, D>     (one pooling group)
//                   dB = s u^T dy                                         (weights per token)
//   combine blocks  C = sum_e w_e B_e, in a launch without token blocks
//
// If tokens are not split, a column block computes dB_e = w_e D from D in shared memory: D is never written to memory.
//
// The grid is ordered by split of the tokens: first the split's token blocks, then its column blocks. The column blocks
// then find in L2 what the token blocks have loaded, even if the whole dy does not fit. This requires blocks to start
// in the order of their indices, which CUDA does not guarantee; only the traffic depends on it, the results do not.
#pragma once

#include "cuda/kernels/d_hidden.cuh"
#include "cuda/kernels/gradient.cuh"
#include "cuda/kernels/shrink.cuh"
#include "cuda/tiles/table.h"

namespace lily::cuda {

struct BackwardDy {
  // Token blocks.
  ShrinkOperands shrink;  // x is dy; w is C or B
  int token_tiles;        // per split; 0: q is not required
  int q_row_tiles;        // tiles of C's rows
  int pooled;
  float scale;
  float *q;  // M x q_pitch, out; null: dh is completed from the product
  int q_pitch;
  int completes;  // 1: the blocks complete dh and dl
  DHidden d_hidden;
  int rank;
  float *token_d_weights;  // M x E: dw_te of this token alone
  // Column blocks.
  StripOperands strip;                  // token blocks have the same token_weights
  int column_tiles, splits, row_tiles;  // row_tiles 0: neither dB nor dw is required
  OuterTarget target;
  DWeights d_weights;  // one pooling group with a router
  // Combine blocks.
  Combine combine;
  int combine_column_tiles;
};

// dw_te of `count` tokens from rows [row, row_end) of v, one (token, expert) pair per warp and iteration. Loads of h
// are in flight for kLoadsInFlight pairs. The sum is over chunks of 16 rows of v in order, which no tile divides: it
// does not depend on the tile.
template <typename Tile>
__device__ inline void add_token_d_weights(const BackwardDy &call, const float *product, int token, int count, int row,
                                           int row_end) {
  constexpr int kLoadsInFlight = 8, kChunk = kWarp / 2;
  static_assert(Tile::kBlockN % kChunk == 0);
  const int lane = threadIdx.x % kWarp;
  const int first_expert = row / call.rank, experts = (row_end - 1) / call.rank - first_expert + 1;
  // A span begins at the beginning of a chunk. An expert begins elsewhere unless r is a multiple of the chunk.
  const int span = min(call.rank, Tile::kBlockN) + (call.rank % kChunk == 0 ? 0 : kChunk - 1);
#pragma unroll 1
  for (int first = warp_of_block(); first < count * experts; first += kLoadsInFlight * Tile::kWarps) {
    int token_of[kLoadsInFlight], expert[kLoadsInFlight], begin[kLoadsInFlight], end[kLoadsInFlight];
    float *d_weight[kLoadsInFlight];  // of the first lane; null: none
    float sum[kLoadsInFlight] = {};   // likewise
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const int i = min(first + n * Tile::kWarps, count * experts - 1);
      token_of[n] = i / experts, expert[n] = first_expert + i % experts;
      begin[n] = max(row, expert[n] * call.rank), end[n] = min(row_end, (expert[n] + 1) * call.rank);
      const bool owns = lane == 0 && first + n * Tile::kWarps < count * experts;
      const int64_t at = static_cast<int64_t>(token + token_of[n]) * call.strip.lhs.token_weights.experts + expert[n];
      d_weight[n] = owns ? call.token_d_weights + at : nullptr;
      if (owns && begin[n] > expert[n] * call.rank) sum[n] = *d_weight[n];
    }
#pragma unroll 1
    for (int offset = 0; offset < span; offset += kWarp) {
      const auto row_of = [&](int n) { return begin[n] / kChunk * kChunk + offset + lane; };
      const auto clamped = [&](int n) { return max(begin[n], min(row_of(n), end[n] - 1)); };
      float h[kLoadsInFlight];
      with_type(typename Tile::Engine::Activations{}, call.d_hidden.hidden.dtype, [&](auto tag) {
        using T = decltype(tag);
        const T *hidden = static_cast<const T *>(call.d_hidden.hidden.data) + token * call.d_hidden.hidden.pitch;
        T raw[kLoadsInFlight];
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n)
          raw[n] = hidden[token_of[n] * call.d_hidden.hidden.pitch + clamped(n) - expert[n] * call.rank];
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) h[n] = to_float(raw[n]);
      });
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int j = row_of(n);
        const float each = h[n] * product[token_of[n] * Tile::kProductPitch + clamped(n) - row];
        float chunk = j >= begin[n] && j < end[n] ? each : 0.0f;
#pragma unroll
        for (int step = kChunk / 2; step > 0; step /= 2) chunk += __shfl_xor_sync(0xffffffffu, chunk, step);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float value = __shfl_sync(0xffffffffu, chunk, half * kChunk);
          if (j - lane + half * kChunk < end[n]) sum[n] = fmaf(value, call.scale, sum[n]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n)
      if (d_weight[n] != nullptr) *d_weight[n] = sum[n];
  }
}

// Weights per token: adds the share of rows [row, row_end) of v to q, in global memory, and to dw. The tile may begin
// and end within an expert's rows.
template <typename Tile>
__device__ inline void add_token_products(const BackwardDy &call, const float *product, int token, int count, int row,
                                          int row_end) {
  const int first = row / call.rank, last = (row_end - 1) / call.rank;
  constexpr int kLoadsInFlight = 8;
  const int elements = count * call.rank;
  // Each thread updates the same elements of q in every row tile, so no barrier is needed between them.
#pragma unroll 1
  for (int i = threadIdx.x; i < elements; i += kLoadsInFlight * Tile::kThreads) {
    int token_of[kLoadsInFlight], k[kLoadsInFlight];
    const float *weights[kLoadsInFlight];
    float *q[kLoadsInFlight];        // null: this row tile has no part of the element
    float sum[kLoadsInFlight] = {};  // s is multiplied last: the sum over experts does not depend on the tile
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const int at = min(i + n * Tile::kThreads, elements - 1), j = first * call.rank + at % call.rank;
      token_of[n] = at / call.rank, k[n] = at % call.rank;
      const bool adds = i + n * Tile::kThreads < elements && (j >= row ? j : j + call.rank) < row_end;
      weights[n] = call.strip.lhs.token_weights.of(token + token_of[n]);
      q[n] = adds ? call.q + static_cast<int64_t>(token + token_of[n]) * call.q_pitch + k[n] : nullptr;
      if (adds && k[n] < row) sum[n] = *q[n];  // else this row tile holds the first expert's element
    }
#pragma unroll 1
    for (int e = first; e <= last; ++e) {
      float weight[kLoadsInFlight];
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) weight[n] = weights[n] != nullptr ? weights[n][e] : 0.0f;
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int j = e * call.rank + k[n];
        if (j >= row && j < row_end)
          sum[n] = fmaf(weight[n], product[token_of[n] * Tile::kProductPitch + j - row], sum[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n)
      if (q[n] != nullptr)
        *q[n] = (call.strip.lhs.token_weights.experts - 1) * call.rank + k[n] < row_end ? sum[n] * call.scale : sum[n];
  }
  if (call.token_d_weights != nullptr) add_token_d_weights<Tile>(call, product, token, count, row, row_end);
}

// Inlined, because a function would receive the address of the kernel's parameters.
template <typename Tile>
__device__ __forceinline__ void backward_tokens(char *shared, const BackwardDy &call, int split, int index) {
  const int begin = split * call.strip.split_tokens;
  const int end = min(begin + call.strip.split_tokens, call.shrink.tokens);
  const int token = begin + index % call.token_tiles * call.shrink.tile_tokens;
  const int token_end = min(token + call.shrink.tile_tokens, end);
  const int count = token_end - token;
  if (count <= 0) return;  // the last split may have fewer tokens
  // One row tile of C per block, or all rows of B.
  const int first_row = call.pooled ? index / call.token_tiles * Tile::kBlockN : 0;
  const int rows_end = call.pooled ? min(first_row + Tile::kBlockN, call.rank) : call.shrink.rows;
  const float *product = nullptr;
  for (int row = first_row; row < rows_end; row += Tile::kBlockN) {
    product = shrink<Tile>(shared, call.shrink, token, token_end, row, all_depth_tiles<Tile>(call.shrink));
    if (call.pooled) break;
    add_token_products<Tile>(call, product, token, count, row, min(row + Tile::kBlockN, rows_end));
    __syncthreads();  // the next product reuses the memory; other warps still read it
  }
  allow_next_launch();
  if (!call.completes) {
    const int vec4_per_row = call.pooled ? (rows_end - first_row + 3) / 4 : 0;
    for (int i = threadIdx.x; i < count * vec4_per_row; i += Tile::kThreads) {
      const int t = i / vec4_per_row, k = i % vec4_per_row * 4;
      float value[4];
      load_vec4(product + t * Tile::kProductPitch + k, 4, true, value);
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] *= call.scale;
      store_vec4(call.q + static_cast<int64_t>(token + t) * call.q_pitch + first_row + k, 4, true, value);
    }
    return;
  }
  const DHidden &d_hidden = call.d_hidden;
  const DHiddenScratch<Tile::kBlockM> scratch(reinterpret_cast<float *>(shared) + Tile::kProduct,
                                              d_hidden.router.experts);
  find_rows(d_hidden, scratch, token, token_end);
  __syncthreads();
  if (d_hidden.router.logit_gradient != LogitGradient::kNone) {
    const bool stores = first_row == 0;  // dl does not depend on q: one of the row tiles stores it
    prepare_router_gradient(d_hidden.router, scratch);
    form_d_logits(d_hidden, scratch, {}, token, token_end, stores);
  }
  if (d_hidden.out.data == nullptr) return;
  const int columns_end = call.pooled ? rows_end : call.rank;
  const int lanes = call.pooled ? Tile::kBlockN / 4 : d_hidden_lanes(call.rank);
  for (int column = first_row; column < columns_end; column += 4 * lanes)
    store_d_hidden<typename Tile::Engine, Tile::kThreads>(
        d_hidden, scratch, token, token_end, column, columns_end, lanes,
        [&](auto whole, const RowsInFlight &rows, int k, auto &value) {
          const QPartials q = {call.q + static_cast<int64_t>(token) * call.q_pitch + k, 0, 1, call.q_pitch};
          if (call.pooled)
            load_product<Tile::kProductPitch>(product + k - first_row, call.scale, rows, value);
          else
            load_q<decltype(whole)::value>(q, call.rank - k, 1.0f, rows, value);
        });
}

template <typename Tile>
__device__ __forceinline__ void backward_columns(char *shared, const BackwardDy &call, int split, int index) {
  const StripIndex at = {index % call.column_tiles, split, index / call.column_tiles};
  const float *z =
      walk_strip<Tile, false, true>(shared, call.strip, at, false, true, [](typename Tile::Scalar *, int) {});
  allow_next_launch();
  finish_outer<Tile>(z, call.target, at);
  const int partial_index = (at.row_tile * call.splits + at.split) * call.column_tiles + at.column_tile;
  form_d_weights<Tile>(shared, call.d_weights, at, call.target, partial_index);
}

template <typename Tiles>
__device__ __forceinline__ void backward_dy_block(const BackwardDy &call, const Block &at) {
  using Engine = typename Tiles::Engine;
  if constexpr (!kHasCode<typename Tiles::Shrink, Tiles::Shrink::kBytes> ||
                !kHasCode<typename Tiles::Strip, kOuterBytes<typename Tiles::Strip>>)
    return stop_without_code();
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  const int of_tokens = call.token_tiles * call.q_row_tiles, of_columns = call.column_tiles * call.row_tiles;
  wait_for_previous_launch();
  if (at.x >= (of_tokens + of_columns) * call.splits) {
    const int index = at.x - (of_tokens + of_columns) * call.splits;
    constexpr bool kIsLora = false;  // D is computed first only if there is a router
    combine_block<Engine, kIsLora, Tiles::kThreads>(call.combine, reinterpret_cast<typename Engine::Scalar *>(shared),
                                                    weights, index % call.combine_column_tiles,
                                                    index / call.combine_column_tiles);
    return;
  }
  const int split = at.x / (of_tokens + of_columns), index = at.x % (of_tokens + of_columns);
  if (index < of_tokens)
    backward_tokens<typename Tiles::Shrink>(shared, call, split, index);
  else
    backward_columns<typename Tiles::Strip>(shared, call, split, index - of_tokens);
}

template <typename Tiles>
__global__ __launch_bounds__(Tiles::kThreads,
                             Tiles::kBlocks) void backward_dy(const __grid_constant__ BackwardDy call) {
  backward_dy_block<Tiles>(call, block_of_grid());
}

template <typename Tiles>
__global__ __launch_bounds__(Tiles::kThreads,
                             Tiles::kBlocks) void backward_dy_list(const __grid_constant__ List<BackwardDy> list) {
  run_part(list, [](const BackwardDy &call, const Block &at) { backward_dy_block<Tiles>(call, at); });
}

}  // namespace lily::cuda
