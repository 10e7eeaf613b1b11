// Backward, first phase for small ranks, used when dy does not fit into L2: reads dy once. Symbols as in docs/math.md.
//
//   q_t = s dy_t C^T    partial sums per column tile
//   D = s h^T dy        partial sums per split of the tokens
//
// Each block owns a wide tile of columns (BLOCK_N) and iterates over its tokens in tiles of BLOCK_M; its columns of C
// stay in shared memory. Compared with reading dy twice (2 M d_out more bytes), the block writes and reads 8 r (column
// tiles * M + splits * d_out) bytes of partial sums. The plan compares the two.
#pragma once

#include "cuda/kernels/gradient.cuh"
#include "cuda/kernels/shrink.cuh"

namespace lily::cuda {

struct BackwardDyOnce {
  Operand dy;      // M x d_out
  Operand hidden;  // M x r
  Experts experts;
  Weights weights;
  int tokens, split_tokens;
  int column_tiles;
  float scale;
  float *q_partials;  // column_tiles x M x q_pitch, out; not yet scaled
  int q_pitch;
  OuterTarget target;
  DWeights d_weights;
  const uint8_t *mask;
  float *kept;  // out: number of tokens that the mask keeps; may be null
  TokensWithGradient with_gradient;
};

template <typename Tile>
__device__ __forceinline__ void backward_dy_once_block(const BackwardDyOnce &call, const Block &block) {
  if constexpr (!kHasCode<Tile, Tile::kBytes>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  extern __shared__ __align__(16) char shared[];
  __shared__ float weights[kMostExperts];
  auto *ring = reinterpret_cast<Scalar *>(shared);
  Scalar *c_tile = ring + Tile::kStages * (Tile::kStrip + Tile::kLhs);
  auto *q_halves = reinterpret_cast<float *>(c_tile + Tile::kRhs);
  const StripIndex at = {block.x % call.column_tiles, block.x / call.column_tiles, 0};
  const int column = at.column_tile * Tile::kBlockN;
  const int begin = at.split * call.split_tokens, end = min(begin + call.split_tokens, call.tokens);
  const int tiles = (end - begin + Tile::kBlockM - 1) / Tile::kBlockM;
  wait_for_previous_launch();
  if (call.kept != nullptr && block.x == 0) count_kept(call.kept, call.mask, call.tokens);

  const auto fill = [&](int tile) {
    if (tile < tiles) {
      Scalar *strip = ring + tile % Tile::kStages * (Tile::kStrip + Tile::kLhs);
      const int token = begin + tile * Tile::kBlockM;
      stage<Scalar, Tile::kBlockM, Tile::kBlockN>(strip, call.dy, {token, end, column, call.experts.columns});
      stage<Scalar, Tile::kBlockM, Tile::kBlockK>(strip + Tile::kStrip, call.hidden,
                                                  {token, end, 0, call.experts.rank});
    }
    copy_commit();
  };
#pragma unroll 1
  for (int tile = 0; tile < Tile::kStages - 1; ++tile) fill(tile);
  compute_weights(weights, call.weights);
  combine_tile<Engine, Tile::kBlockK, Tile::kBlockN>(c_tile, call.experts, weights, 0, column);

  const int warp = threadIdx.x / kWarp, own = warp * Tile::kWarpColumns;
  Accumulators<Tile::kBlockK / 16, Tile::kWarpColumns / 8> z;
  clear(z);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    fill(tile + Tile::kStages - 1);
    Scalar *strip = ring + tile % Tile::kStages * (Tile::kStrip + Tile::kLhs);
    if (call.with_gradient.weights != nullptr) {
      const int token = begin + tile * Tile::kBlockM;
      clear_rows_without_gradient<Scalar, Tile::kBlockM, Tile::kBlockN>(strip, call.with_gradient, token, end);
      clear_rows_without_gradient<Scalar, Tile::kBlockM, Tile::kBlockK>(strip + Tile::kStrip, call.with_gradient, token,
                                                                        end);
      __syncthreads();
    }
    reconverge();
    multiply<Engine, Along::kOuter, Tile::kBlockK, Along::kOuter, Tile::kBlockN>(z, strip + Tile::kStrip, 0, strip, own,
                                                                                 0, Tile::kBlockM / Engine::kStepK);
    const int half = warp % kHalves, row = warp / kHalves * Tile::kWarpRank;
    Accumulators<1, Tile::kWarpRank / 8> q;
    clear(q);
#pragma unroll
    for (int k_tile = 0; k_tile < kSplitTiles; ++k_tile)
      multiply<Engine, Along::kDepth, Tile::kBlockN, Along::kDepth, Tile::kBlockN>(
          q, strip, 0, c_tile, row, (k_tile * kHalves + half) * Tile::kHalf, Tile::kHalf / Engine::kStepK);
    for_each_pair(q, [&](int t, int k, float first, float second) {
      store_pair(q_halves + half * Tile::kQTile + t * Tile::kQPitch + row + k, first, second);
    });
    __syncthreads();
    const int count = min(Tile::kBlockM, end - begin - tile * Tile::kBlockM);
    for (int i = threadIdx.x; i < count * (call.q_pitch / 4); i += kThreads) {
      const int t = i / (call.q_pitch / 4), k = i % (call.q_pitch / 4) * 4;
      float sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kHalves; ++w) {
        float partial[4];
        load_vec4(q_halves + w * Tile::kQTile + t * Tile::kQPitch + k, 4, true, partial);
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[v] += partial[v];
      }
      const int64_t row = static_cast<int64_t>(at.column_tile) * call.tokens + begin + tile * Tile::kBlockM + t;
      store_vec4(call.q_partials + row * call.q_pitch + k, 4, true, sum);
    }
  }
  allow_next_launch();
  copy_wait<0>();
  __syncthreads();
  auto *result = reinterpret_cast<float *>(shared);
  for_each_pair(z, [&](int k, int n, float first, float second) {
    store_pair(result + k * Tile::kResultPitch + own + n, first, second);
  });
  __syncthreads();
  finish_outer<Tile>(result, call.target, at);
  form_d_weights<Tile>(shared, call.d_weights, at, call.target, block.x);
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void backward_dy_once(const __grid_constant__ BackwardDyOnce call) {
  backward_dy_once_block<Tile>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void backward_dy_once_list(const __grid_constant__ List<BackwardDyOnce> list) {
  run_part(list, [](const BackwardDyOnce &call, const Block &at) { backward_dy_once_block<Tile>(call, at); });
}

}  // namespace lily::cuda
