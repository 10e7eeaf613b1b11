// Backward, first phase: all that needs dy.
//
// Blocks of two kinds in one launch, so that dy comes once from memory as long as it fits into the second-level cache:
//
//   of tokens    q_t = s dy_t C^T                                      (pooled)
//                v_t = s dy_t B^T, q_t = sum_e w_te v_te, c_te = <h_t, v_te>   (every token its own mixture)
//   of columns   D = s h^T dy, and of it the part of dw_e = <B_e, D>   (pooled)
//                dB = s u^T dy                                          (every token its own mixture)
//
// Where one block of columns has all tokens, D becomes dB_e = w_e D without having been in memory.
//
// The grid goes split by split of the tokens, first the blocks of its tokens, then those of its columns: what the ones
// have read the others find in the cache although all of dy would not fit. That is so as long as blocks start in the
// order of their numbers, which CUDA does not promise; results do not depend on it.
#pragma once

#include "gradient.cuh"
#include "shrink.cuh"

namespace lily::cuda {

struct BackwardDy {
  // Blocks of tokens.
  ShrinkOperands shrink;  // dy, and C or B
  int token_tiles;        // of one split; 0: q is not wanted
  int q_row_tiles;        // of C's rows
  int pooled;
  float scale;
  float *q;  // M x q_pitch
  int q_pitch;
  int rank;
  Operand hidden;
  TokenWeights token_weights;
  float *token_d_weights;  // c: M x E
  // Blocks of columns.
  StripOperands strip;
  int column_tiles, splits, row_tiles;  // blocks 0: neither dB nor dw is wanted
  OuterTarget target;
  DWeights d_weights;  // pooled, with a router
};

// c of `count` tokens from rows [row, row_end) of v, by warps; h of four tokens and experts is under way at once.
template <typename Tile, typename T>
__device__ inline void add_token_d_weights(const BackwardDy &call, const float *product, int token, int count, int row,
                                           int row_end) {
  constexpr int kLoadsInFlight = 4;
  const int lane = threadIdx.x % kWarp;
  const int first_expert = row / call.rank, experts = (row_end - 1) / call.rank - first_expert + 1;
  const T *hidden = static_cast<const T *>(call.hidden.data) + token * call.hidden.pitch;
#pragma unroll 1
  for (int first = threadIdx.x / kWarp; first < count * experts; first += kLoadsInFlight * kWarps) {
    int token_of[kLoadsInFlight], expert[kLoadsInFlight], begin[kLoadsInFlight], end[kLoadsInFlight];
    float sum[kLoadsInFlight] = {};
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const int i = min(first + n * kWarps, count * experts - 1);
      token_of[n] = i / experts, expert[n] = first_expert + i % experts;
      begin[n] = max(row, expert[n] * call.rank), end[n] = min(row_end, (expert[n] + 1) * call.rank);
    }
#pragma unroll 1
    for (int offset = lane; offset < min(call.rank, Tile::kBlockN); offset += kWarp) {
      T h[kLoadsInFlight];
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int j = min(begin[n] + offset, end[n] - 1);
        h[n] = hidden[token_of[n] * call.hidden.pitch + j - expert[n] * call.rank];
      }
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int j = min(begin[n] + offset, end[n] - 1);
        const float next = fmaf(to_float(h[n]), product[token_of[n] * Tile::kProductPitch + j - row], sum[n]);
        sum[n] = begin[n] + offset < end[n] ? next : sum[n];
      }
    }
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const float value = sum_over_warp(sum[n]) * call.scale;
      if (lane != 0 || first + n * kWarps >= count * experts) continue;
      float *d_weight =
          call.token_d_weights + static_cast<int64_t>(token + token_of[n]) * call.token_weights.experts + expert[n];
      *d_weight = begin[n] == expert[n] * call.rank ? value : *d_weight + value;
    }
  }
}

template <typename Tile>
__device__ inline void backward_tokens(char *shared, const BackwardDy &call, int split, int index) {
  const int begin = split * call.strip.split_tokens;
  const int end = min(begin + call.strip.split_tokens, call.shrink.tokens);
  const int token = begin + index % call.token_tiles * call.shrink.tile_tokens;
  const int token_end = min(token + call.shrink.tile_tokens, end);
  const int count = token_end - token;
  if (count <= 0) return;  // the last split may have fewer tokens
  if (call.pooled) {
    const int row = index / call.token_tiles * Tile::kBlockN;
    const float *product = shrink<Tile>(shared, call.shrink, token, token_end, row, all_depth_tiles<Tile>(call.shrink));
    const int vec4_per_row = (min(Tile::kBlockN, call.rank - row) + 3) / 4;
    for (int i = threadIdx.x; i < count * vec4_per_row; i += kThreads) {
      const int t = i / vec4_per_row, k = i % vec4_per_row * 4;
      float value[4];
      load_vec4(product + t * Tile::kProductPitch + k, 4, true, value);
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] *= call.scale;
      store_vec4(call.q + static_cast<int64_t>(token + t) * call.q_pitch + row + k, 4, true, value);
    }
    return;
  }
  // v in blocks of rows of B; a block may begin and end within an expert.
  for (int row = 0; row < call.shrink.rows; row += Tile::kBlockN) {
    const float *product = shrink<Tile>(shared, call.shrink, token, token_end, row, all_depth_tiles<Tile>(call.shrink));
    const int row_end = min(row + Tile::kBlockN, call.shrink.rows);
    const int first = row / call.rank, last = (row_end - 1) / call.rank;
    // A thread keeps to its elements of q from block to block, so that they need no barrier.
    for (int i = threadIdx.x; i < count * call.rank; i += kThreads) {
      const int t = i / call.rank, k = i % call.rank;
      const float *weights = call.token_weights.of(token + t);
      float sum = 0;
      bool any = false;
      for (int e = first; e <= last; ++e) {
        const int j = e * call.rank + k;
        if (j < row || j >= row_end) continue;
        sum = fmaf(weights[e], product[t * Tile::kProductPitch + j - row], sum);
        any = true;
      }
      if (!any) continue;
      float *q = call.q + static_cast<int64_t>(token + t) * call.q_pitch + k;
      const bool begins = k >= row;  // this block has the element of the first expert
      *q = begins ? sum * call.scale : fmaf(call.scale, sum, *q);
    }
    if (call.token_d_weights != nullptr) {
      with_activation_type<typename Tile::Scalar>(call.hidden.dtype, [&](auto tag) {
        add_token_d_weights<Tile, decltype(tag)>(call, product, token, count, row, row_end);
      });
    }
    __syncthreads();  // the next product takes the same memory, and other warps go on with c
  }
}

template <typename Tile>
__device__ inline void backward_columns(char *shared, const BackwardDy &call, int split, int index) {
  const StripIndex at = {index % call.column_tiles, split, index / call.column_tiles};
  const float *z =
      walk_strip<Tile, false, true>(shared, call.strip, at, false, true, [](typename Tile::Scalar *, int) {});
  finish_outer<Tile>(z, call.target, at);
  const int partial_index = (at.row_tile * call.splits + at.split) * call.column_tiles + at.column_tile;
  form_d_weights<Tile>(shared, call.d_weights, at, call.scale, partial_index);
}

template <typename Shrink, typename Strip>
__global__ __launch_bounds__(kThreads, kBlocks) void backward_dy(const __grid_constant__ BackwardDy call) {
  extern __shared__ __align__(16) char shared[];
  const int of_tokens = call.token_tiles * call.q_row_tiles, of_columns = call.column_tiles * call.row_tiles;
  const int split = blockIdx.x / (of_tokens + of_columns), index = blockIdx.x % (of_tokens + of_columns);
  if (index < of_tokens)
    backward_tokens<Shrink>(shared, call, split, index);
  else
    backward_columns<Strip>(shared, call, split, index - of_tokens);
}

}  // namespace lily::cuda
