// Forward of few tokens (decoding), second phase: everything after x A^T, of which the first phase writes partial
// sums over splits of d_in. Symbols as in docs/math.md.
//
//   h = phi(sum of the partials)   l = h R^T   p = softmax(l)   w = pooled p   y (+)= s h C, or s u B
//
// Each block owns BLOCK_N columns of y. Every block adds the partial sums in order and computes the routing of all
// tokens: a few kilobytes from L2 instead of one more launch. With one combined projector it forms its columns of C in
// shared memory; C is never written to memory. Fragments of 16 rows without a token are not multiplied; each row has
// the same bits as in a batch of any size.
//
// Global memory traffic: B once; y written once, and read once if it accumulates; block 0 writes h, p and w.
//
// All loads except of the partial sums come before the wait for the first phase, and overlap with it: y, R, the
// mask, offsets and given weights, and as much of B as shared memory holds, in the type in which the parameters are
// stored. No launch of the call writes to any of them.
//
// B passes through shared memory in stages of `stage_rows` of its E r rows: whole experts if they are combined,
// otherwise whole BLOCK_K tiles. Rows of LoRA's b, which is transposed, are columns of the matrix in memory.
#pragma once

#include "cuda/kernels/combine.cuh"
#include "cuda/kernels/forward_shrink.cuh"
#include "cuda/kernels/pool.cuh"

namespace lily::cuda {

struct ForwardDecode {
  HiddenPartials partials;
  int tokens, columns;  // M, d_out
  Output hidden;        // for backward; may be null
  Route route;          // `values` may be null
  int pooled;           // 1: one combined projector; 0: weights per token
  int per_token;        // for weights per token: 1 with token routing, 0 if a group's tokens share weights
  PoolKind pool;
  Groups groups;
  Weights weights;     // pooled, without a router
  const float *given;  // G x E: weights per group, without a router
  float *weights_out;  // G x E; may be null
  Experts experts;
  int stage_rows, stages;  // of B
  int operand_elements;    // of the tile that is formed of B
  Output y;
  float scale;
  const float *row_scale;  // M: a factor for each token; may be null
};

// Computes w of all groups, E + 1 floats per row. Ends with a barrier.
__device__ inline void pool_all(const ForwardDecode &call, const uint8_t *mask, const float *values, float *sums,
                                bool writes) {
  const int experts = call.route.experts, pitch = experts + 1, quads = (experts + 3) / 4;
  const PoolRows rows = {values, experts | 1, experts, mask, 1};
  __syncthreads();
#pragma unroll 1
  for (int i = warp_of_block(); i < call.groups.groups * quads; i += kWarps) {
    const int group = i / quads, expert = i % quads * 4;
    const int begin = call.groups.begin(group), end = call.groups.end(group);
    float sum[5] = {0, 0, 0, 0, 0};
#pragma unroll 1
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
#pragma unroll 1
  for (int g = threadIdx.x; g < call.groups.groups; g += kThreads) finish_pool(call.pool, sums + g * pitch, experts);
  __syncthreads();
  if (!writes || call.weights_out == nullptr) return;
  for (int i = threadIdx.x; i < call.groups.groups * experts; i += kThreads)
    call.weights_out[i] = sums[i / experts * pitch + i % experts];
}

// value[i] += w_e B_e, in order of the experts, for elements k, n .. n + 3 of C that this thread forms: rows k are
// every kStep-th. The stage begins with the rows of the first of `count` experts.
template <typename Tile, typename S>
__device__ inline void add_experts(float (&value)[Tile::kCombinedRows][4], const S *stage, int rank, int count,
                                   const float *weights) {
  const int n = static_cast<int>(threadIdx.x) % Tile::kVec4PerRow * 4;
#pragma unroll 1
  for (int e = 0; e < count; ++e) {
#pragma unroll
    for (int i = 0; i < Tile::kCombinedRows; ++i) {
      const int k = static_cast<int>(threadIdx.x) / Tile::kVec4PerRow + i * Tile::kStep;
      if (k >= rank) break;
      float b[4];
      load_vec4(stage + place<S, Tile::kBlockN>(e * rank + k, n), 4, true, b);
#pragma unroll
      for (int v = 0; v < 4; ++v) value[i][v] = fmaf(weights[e], b[v], value[i][v]);
    }
  }
}

// Writes C, with rows of zeros up to a multiple of 16.
template <typename Tile>
__device__ inline void store_combined(typename Tile::Scalar *c, const float (&value)[Tile::kCombinedRows][4],
                                      int rank) {
  const int n = static_cast<int>(threadIdx.x) % Tile::kVec4PerRow * 4;
#pragma unroll
  for (int i = 0; i < Tile::kCombinedRows; ++i) {
    const int k = static_cast<int>(threadIdx.x) / Tile::kVec4PerRow + i * Tile::kStep;
    if (k < (rank + 15) / 16 * 16) store_tile(c + place<typename Tile::Scalar, Tile::kBlockN>(k, n), value[i]);
  }
}

// Converts a tile in shared memory.
template <typename T, typename S, int kRows, int kColumns>
__device__ inline void convert_tile(T *tile, const S *from) {
  constexpr int kVec4PerRow = kColumns / 4;
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kVec4PerRow; i += kThreads) {
    const int r = i / kVec4PerRow, c = i % kVec4PerRow * 4;
    float value[4];
    load_vec4(from + place<S, kColumns>(r, c), 4, true, value);
    store_tile(tile + place<T, kColumns>(r, c), value);
  }
}

template <typename Tile>
__device__ __forceinline__ void forward_decode_block(const ForwardDecode &call, const Block &block) {
  if constexpr (!kHasCode<Tile, 0>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  using Parameters = typename Engine::Parameters;
  extern __shared__ __align__(16) char shared[];
  __shared__ float given[kMostExperts];
  __shared__ int group[Tile::kBlockM];
  __shared__ uint8_t mask[Tile::kBlockM];
  const int rank = call.experts.rank, experts = call.experts.experts;
  const bool transposed = call.experts.transposed, combines = call.pooled && !transposed;
  const bool routes = call.route.router.data != nullptr;
  const int pitch = hidden_row(rank);
  const bool is_first = block.x == 0;  // it writes h, p and w
  const int column = block.x * Tile::kBlockN, rows = experts * rank;
  const int slot_bytes =
      (call.stage_rows + Tile::kBlockK - 1) / Tile::kBlockK * Tile::kRhs * dtype_bytes(call.experts.b.dtype);

  const int fragments = (call.tokens + 15) / 16, tile_rows = 16 * fragments;  // with tokens

  auto *lhs = reinterpret_cast<Scalar *>(shared);
  Scalar *strip = lhs + tile_rows * Tile::kBlockK;
  Scalar *operand = strip + Tile::kStrip;  // C, or a converted tile of B
  auto *ring = reinterpret_cast<char *>(operand + call.operand_elements);
  auto *product = reinterpret_cast<float *>(ring + min(call.stages, Tile::kStages) * slot_bytes);
  float *logits = product + tile_rows * pitch;
  float *router = logits + tile_rows * (experts | 1);
  float *sums = router + experts * (rank | 1);
  const auto slot = [&](int number) { return ring + number % Tile::kStages * slot_bytes; };

  const auto fill = [&](int number) {
    if (number < call.stages)
      with_type(Parameters{}, call.experts.b.dtype, [&](auto tag) {
        using S = decltype(tag);
        const int first = number * call.stage_rows;
        const int end = min(first + call.stage_rows, rows);
        for (int row = first; row < end; row += Tile::kBlockK) {
          S *tile = reinterpret_cast<S *>(slot(number)) + (row - first) * Tile::kBlockN;
          if (transposed)
            stage<S, Tile::kBlockN, Tile::kBlockK>(tile, call.experts.b, {column, call.columns, row, end});
          else
            stage<S, Tile::kBlockK, Tile::kBlockN>(tile, call.experts.b, {row, end, column, call.columns});
        }
      });
    copy_commit();
  };
  // Rows of E weights, per token or per group.
  const float *token_weights = call.per_token ? logits : sums;
  const int token_weights_pitch = call.per_token ? experts | 1 : experts + 1;
  const float *expert_weights = routes ? sums : given;
  const Window window = {0, call.tokens, column, call.columns};
  stage_old<Engine, Tile::kBlockM, Tile::kBlockN>(strip, call.y, window);
  Route route = call.route;
  // What h and the weights follow from. The loads of B overlap with it.
  const auto form_weights = [&] {
    if (routes) {
      load_router(Parameters{}, route, router);
      if (route.mask != nullptr)
        for (int t = threadIdx.x; t < call.tokens; t += kThreads) mask[t] = route.mask[t];
    } else if (call.pooled) {
      compute_weights(given, call.weights);
    } else {
      for (int i = threadIdx.x; i < call.groups.groups * experts; i += kThreads)
        sums[i / experts * token_weights_pitch + i % experts] = call.given[i];
    }
    if (!call.pooled)
      for (int t = threadIdx.x; t < call.tokens; t += kThreads) group[t] = call.per_token ? t : call.groups.of(t);
    wait_for_previous_launch();
    sum_partials(call.partials, product, 0, call.tokens, [&](int t, int k, const float(&h)[4]) {
      if (is_first && call.hidden.data != nullptr)
        store_vec4(typename Engine::Activations{}, call.hidden, t, k, rank, h);
    });
    if (routes) {
      form_logits(route, product, pitch, logits, router, call.tokens);
      if (!is_first) route.values = nullptr;
      finish_route(route, logits, 0, call.tokens, 0, 1);
      if (route.mask != nullptr) route.mask = mask;
      if (!call.per_token) pool_all(call, route.mask, logits, sums, is_first);
    } else if (call.pooled && is_first && call.weights_out != nullptr) {
      for (int e = threadIdx.x; e < experts; e += kThreads) call.weights_out[e] = given[e];
    }
  };

  const int warp = threadIdx.x / kWarp;
  Accumulators<Tile::kBlockM / 16, 1> sum;
  float combined[Tile::kCombinedRows][4];
  // The first steps only fill: the code of `fill` is there once.
#pragma unroll 1
  for (int at = -Tile::kStages; at < call.stages; ++at) {
    if (at == 0) {
      form_weights();
      clear(sum);
#pragma unroll
      for (auto &row : combined)
#pragma unroll
        for (float &value : row) value = 0;
    } else {
      __syncthreads();  // the stage before is no longer read
    }
    if (at != 0) fill(at < 0 ? at + Tile::kStages : at + Tile::kStages - 1);
    if (at < 0) continue;
    copy_wait<Tile::kStages - 1>();
    __syncthreads();  // the stage has arrived; h and the weights are written
    int row = combines ? 0 : at * call.stage_rows;
    const int first = row, end = combines ? rank : min(row + call.stage_rows, rows);
    if (combines) {
      const int expert = at * call.stage_rows / rank;
      with_type(Parameters{}, call.experts.b.dtype, [&](auto tag) {
        add_experts<Tile>(combined, reinterpret_cast<const decltype(tag) *>(slot(at)), rank,
                          min(call.stage_rows / rank, experts - expert), expert_weights + expert);
      });
      if (at < call.stages - 1) continue;
      store_combined<Tile>(operand, combined, rank);
    }
#pragma unroll 1
    for (; row < end; row += Tile::kBlockK) {
      if (row > first) __syncthreads();  // the tiles are no longer read
      for (int i = threadIdx.x; i < tile_rows * Tile::kBlockK; i += kThreads) {
        const int t = i / Tile::kBlockK, j = row + i % Tile::kBlockK;
        float value = 0;
        if (t < call.tokens && j < end) {
          value = product[t * pitch + j % rank];
          if (call.row_scale != nullptr) value = call.row_scale[t] * to_float(from_float<Scalar>(value));
          if (!call.pooled) {
            const float weight = group[t] < 0 ? 0.0f : token_weights[group[t] * token_weights_pitch + j / rank];
            value = weight * to_float(from_float<Scalar>(value));
          }
        }
        lhs[place<Scalar, Tile::kBlockK>(t, i % Tile::kBlockK)] = from_float<Scalar>(value);
      }
      const Scalar *b = operand + (combines ? row * Tile::kBlockN : 0);
      if (!combines)
        with_type(Parameters{}, call.experts.b.dtype, [&](auto tag) {
          using S = decltype(tag);
          const auto *raw = reinterpret_cast<const S *>(slot(at)) + (row - first) * Tile::kBlockN;
          if constexpr (std::is_same_v<S, Scalar>)
            b = raw;
          else if (transposed)
            convert_tile<Scalar, S, Tile::kBlockN, Tile::kBlockK>(operand, raw);
          else
            convert_tile<Scalar, S, Tile::kBlockK, Tile::kBlockN>(operand, raw);
        });
      __syncthreads();
      const int steps = (min(end - row, Tile::kBlockK) + Engine::kStepK - 1) / Engine::kStepK;
      if (transposed)
        multiply<Engine, Along::kDepth, Tile::kBlockK, Along::kDepth, Tile::kBlockK>(sum, lhs, 0, b, warp * 8, 0, steps,
                                                                                     fragments);
      else
        multiply<Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(sum, lhs, 0, b, warp * 8, 0, steps,
                                                                                     fragments);
    }
  }
  load_old<Engine, Tile::kBlockM, Tile::kBlockN>(strip, call.y, window);
  add_scaled<Scalar, Tile::kBlockN>(strip, sum, 0, warp * 8, call.scale, call.y.accumulate);
  __syncthreads();
  unstage<Engine, Tile::kBlockM, Tile::kBlockN>(strip, call.y, window);
}

template <typename Tile>
__global__ __launch_bounds__(kThreads,
                             Tile::kMinBlocks) void forward_decode(const __grid_constant__ ForwardDecode call) {
  forward_decode_block<Tile>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, Tile::kMinBlocks) void forward_decode_list(
    const __grid_constant__ List<ForwardDecode> list) {
  run_part(list, [](const ForwardDecode &call, const Block &at) { forward_decode_block<Tile>(call, at); });
}

}  // namespace lily::cuda
