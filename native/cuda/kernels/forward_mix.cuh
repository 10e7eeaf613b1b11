// Forward, second phase with weights per token: adds the adapter's output to y. Symbols as in docs/math.md.
//
//   y_t (+)= s u_t B    u_t = w_t (x) h_t: B is one matrix of E r rows
//
// Each block owns BLOCK_N columns and iterates over tokens in tiles of BLOCK_M. For each BLOCK_K columns of u it forms
// one tile of u from h and w in shared memory, while the matrix units multiply the tile before. If they fit, the
// block's columns of all of B stay in shared memory; otherwise B is streamed again for each tile of tokens.
//
// Global memory traffic: y written once, and read once if it accumulates; h and w once per column tile, from L2; B once
// per split of the tokens, or else once per tile of tokens, from L2.
#pragma once

#include "cuda/kernels/strip.cuh"

namespace lily::cuda {

struct ForwardMix {
  Operand hidden;  // M x r, of the type of a tile; rows begin at multiples of 16 bytes
  TokenWeights weights;
  Operand b;  // E r x columns
  Output y;
  float scale;
  int tokens, columns;  // M, d_out
  int rank, experts;
  int hidden_pitch;     // elements of a row of h in shared memory
  int k_tiles, stages;  // tiles of u's columns; tiles of tokens in the ring
  int split_tokens;     // per block, a multiple of kBlockM
  int column_tiles;
  int b_stays;
};

// The weights of `count` tokens, E per token.
template <int kBlockM>
__device__ inline void stage_weights(float *tile, const TokenWeights &weights, int token, int count) {
  for (int i = threadIdx.x; i < count * weights.experts; i += kThreads) {
    const float *weight = weights.of(token + i / weights.experts) + i % weights.experts;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    tile[i] = *weight;
#else
    copy_async_4(tile + i, weight);
#endif
  }
}

// Forms columns [column, column + kBlockK) of u from a tile of h and w; elements outside of u are zero.
template <typename Tile>
__device__ inline void form_u_tile(typename Tile::Scalar *u, const typename Tile::Scalar *hidden, const float *weights,
                                   const ForwardMix &call, int count, int column) {
  using Scalar = typename Tile::Scalar;
  constexpr int kVector = Tile::kVector, kVectors = Tile::kBlockK / kVector, kStep = kThreads / kVectors;
  const int pitch = call.hidden_pitch, columns = call.experts * call.rank;
  const int c = static_cast<int>(threadIdx.x) % kVectors * kVector, j = column + c;
  const auto store = [&](int t, const float(&value)[kVector]) {
#pragma unroll
    for (int v = 0; v < kVector; v += 4)
      store_tile(u + place<Scalar, Tile::kBlockK>(t, c + v), {value[v], value[v + 1], value[v + 2], value[v + 3]});
  };
  const int expert = j / call.rank, k = j % call.rank;
  if (call.rank % kVector == 0) {  // the vector has elements of one expert
#pragma unroll
    for (int t = static_cast<int>(threadIdx.x) / kVectors; t < Tile::kBlockM; t += kStep) {
      const bool inside = t < count && j < columns;
      float value[kVector];
#pragma unroll
      for (int v = 0; v < kVector; v += 4) {
        float four[4];
        load_vec4(hidden + t * pitch + (inside ? k : 0) + v, 4, true, four);
        const float weight = inside ? weights[t * call.experts + expert] : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) value[v + i] = inside ? four[i] * weight : 0.0f;
      }
      store(t, value);
    }
    return;
  }
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x) / kVectors; t < Tile::kBlockM; t += kStep) {
    float value[kVector];
    int e = expert, of_expert = k;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const bool inside = t < count && j + v < columns;
      value[v] = inside ? to_float(hidden[t * pitch + of_expert]) * weights[t * call.experts + e] : 0.0f;
      if (++of_expert == call.rank) of_expert = 0, ++e;
    }
    store(t, value);
  }
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_mix(const __grid_constant__ ForwardMix call) {
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  const int column = static_cast<int>(blockIdx.x) % call.column_tiles * Tile::kBlockN;
  const int begin = static_cast<int>(blockIdx.x) / call.column_tiles * call.split_tokens;
  const int end = min(begin + call.split_tokens, call.tokens);
  const int columns = call.experts * call.rank, k_tiles = call.k_tiles, stages = call.stages;
  const int tiles = max((end - begin + Tile::kBlockM - 1) / Tile::kBlockM, 0), steps = tiles * k_tiles;
  const int hidden_tile = Tile::kBlockM * call.hidden_pitch;
  const int weights_tile = Tile::kBlockM * call.experts;

  auto *u_ring = reinterpret_cast<Scalar *>(shared);
  Scalar *y_ring = u_ring + 2 * Tile::kU;
  Scalar *b_tiles = y_ring + stages * Tile::kStrip;
  Scalar *hidden_ring = b_tiles + (call.b_stays ? k_tiles : Tile::kRhsStages) * Tile::kRhs;
  auto *weights_ring = reinterpret_cast<float *>(hidden_ring + stages * hidden_tile);

  const auto first_token = [&](int tile) { return begin + tile * Tile::kBlockM; };
  const auto fill_hidden = [&](int tile) {
    if (tile >= tiles) return;
    const int token = first_token(tile), count = min(Tile::kBlockM, end - token);
    stage_rows<Scalar, Tile::kBlockM>(hidden_ring + tile % stages * hidden_tile, call.hidden_pitch, call.hidden, token,
                                      end, call.rank);
    stage_weights<Tile::kBlockM>(weights_ring + tile % stages * weights_tile, call.weights, token, count);
  };
  const auto fill_y = [&](int tile) {
    if (tile < tiles && call.y.accumulate)
      stage_activations<typename Tile::Engine, Tile::kBlockM, Tile::kBlockN>(
          y_ring + tile % stages * Tile::kStrip, call.y.operand(), {first_token(tile), end, column, call.columns});
  };
  const auto fill_b = [&](int k_tile, int place) {
    stage<Scalar, Tile::kBlockK, Tile::kBlockN>(b_tiles + place * Tile::kRhs, call.b,
                                                {k_tile * Tile::kBlockK, columns, column, call.columns});
  };
  const auto form_u = [&](int step) {
    if (step >= steps) return;
    const int tile = step / k_tiles;
    form_u_tile<Tile>(u_ring + step % 2 * Tile::kU, hidden_ring + tile % stages * hidden_tile,
                      weights_ring + tile % stages * weights_tile, call, min(Tile::kBlockM, end - first_token(tile)),
                      step % k_tiles * Tile::kBlockK);
  };

  wait_for_previous_launch();
  for (int tile = 0; tile < stages - 1; ++tile) fill_hidden(tile);
  copy_commit();
  for (int tile = 0; tile < stages - 1; ++tile) fill_y(tile);
  const int first_tiles = call.b_stays ? k_tiles : min(steps, Tile::kRhsStages - 1);
#pragma unroll 1
  for (int place = 0; place < first_tiles; ++place) fill_b(place % k_tiles, place);
  copy_commit();
  copy_wait<1>();
  __syncthreads();
  form_u(0);

  const int warp = threadIdx.x / kWarp;
  const int warp_m = warp / Tile::kWarpsN * Tile::kM * 16, warp_n = warp % Tile::kWarpsN * Tile::kN * 8;
  Accumulators<Tile::kM, Tile::kN> sum;
  clear(sum);
  for (int step = 0; step < steps; ++step) {
    if (step == 0)
      copy_wait<0>();
    else
      copy_wait<1>();  // of a step, whatever was issued two steps before has arrived
    __syncthreads();
    const int tile = step / k_tiles, k_tile = step % k_tiles;
    if (k_tile == 0) {
      fill_hidden(tile + stages - 1);
      fill_y(tile + stages - 1);
    }
    const int next = step + Tile::kRhsStages - 1;
    if (!call.b_stays && next < steps) fill_b(next % k_tiles, next % Tile::kRhsStages);
    copy_commit();
    form_u(step + 1);
    reconverge();
    const Scalar *b = b_tiles + (call.b_stays ? k_tile : step % Tile::kRhsStages) * Tile::kRhs;
    const int depth = min(columns - k_tile * Tile::kBlockK, Tile::kBlockK);
    multiply<typename Tile::Engine, Along::kDepth, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(
        sum, u_ring + step % 2 * Tile::kU, warp_m, b, warp_n, 0,
        (depth + Tile::Engine::kStepK - 1) / Tile::Engine::kStepK);
    if (k_tile < k_tiles - 1) continue;
    Scalar *y = y_ring + tile % stages * Tile::kStrip;
    add_scaled<Scalar, Tile::kBlockN>(y, sum, warp_m, warp_n, call.scale, call.y.accumulate);
    clear(sum);
    __syncthreads();
    unstage<typename Tile::Engine, Tile::kBlockM, Tile::kBlockN>(y, call.y,
                                                                 {first_token(tile), end, column, call.columns});
  }
}

}  // namespace lily::cuda
