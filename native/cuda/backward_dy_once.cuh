// Backward, first phase of small ranks, where dy does not fit into the second-level cache: it is read once.
//
//   q_t = s dy_t C^T, in parts over the strips of columns     D = s h^T dy, in parts over the splits of tokens
//
// A block owns a wide strip of columns and walks down its tokens; its slice of C stays in shared memory. Against two
// readings of dy (2 M d_out bytes more) it writes and reads 8 r (strips M + splits d_out) bytes of parts, which the
// launch compares.
#pragma once

#include "gradient.cuh"
#include "shrink.cuh"

namespace lily::cuda {

template <typename Engine_, int kRank_>
struct OnceTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  // A strip is a chunk of the sum that `shrink` forms; two warps share the rows of C of each half: the bits are the
  // same.
  static constexpr int kTokens = 16, kRank = kRank_, kColumns = kChunk<Scalar>, kStages = 3;
  static constexpr int kHalf = kColumns / kChunkLines / kHalves, kWarpRank = kRank * kHalves / kWarps;
  static constexpr int kWarpColumns = kColumns / kWarps;
  static constexpr int kStrip = kTokens * kColumns, kLeft = kTokens * kRank, kWeights = kRank * kColumns;
  static constexpr int kHiddenPitch = kRank + 8;  // floats, of a half's part of q
  static constexpr int kHidden = kTokens * kHiddenPitch;
  static constexpr int kResultPitch = kColumns + 8;  // floats
  static constexpr int kRing =
      (kStages * (kStrip + kLeft) + kWeights) * static_cast<int>(sizeof(Scalar)) + kHalves * kHidden * 4;
  static constexpr int kResult = kRank * kResultPitch * 4 + kWarps * 4;
  static constexpr int kBytes = kRing > kResult ? kRing : kResult;
};

struct BackwardDyOnce {
  Operand dy;      // M x d_out
  Operand hidden;  // M x r
  Experts experts;
  Weights weights;
  int tokens, split_tokens;
  int slices;
  float scale;
  float *q_parts;  // slices x M x q_pitch, out; not yet scaled
  int q_pitch;
  OuterTarget target;
  ExpertLosses losses;
  const uint8_t *mask;
  float *kept;  // out: how many the mask keeps; may be null
};

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void backward_dy_once(const __grid_constant__ BackwardDyOnce call) {
  using Scalar = typename Tile::Scalar;
  using Engine = typename Tile::Engine;
  extern __shared__ __align__(16) char shared[];
  __shared__ float mix[kMostExperts];
  auto *ring = reinterpret_cast<Scalar *>(shared);
  Scalar *weights = ring + Tile::kStages * (Tile::kStrip + Tile::kLeft);
  auto *hidden_parts = reinterpret_cast<float *>(weights + Tile::kWeights);
  const StripBlock at = {static_cast<int>(blockIdx.x) % call.slices, static_cast<int>(blockIdx.x) / call.slices, 0};
  const int column = at.slice * Tile::kColumns;
  const int begin = at.split * call.split_tokens, end = min(begin + call.split_tokens, call.tokens);
  const int tiles = (end - begin + Tile::kTokens - 1) / Tile::kTokens;
  if (call.kept != nullptr && blockIdx.x == 0) count_kept(call.kept, call.mask, call.tokens);

  const auto fill = [&](int tile) {
    if (tile < tiles) {
      Scalar *strip = ring + tile % Tile::kStages * (Tile::kStrip + Tile::kLeft);
      const int token = begin + tile * Tile::kTokens;
      stage_activations<Scalar, Tile::kTokens, Tile::kColumns>(strip, call.dy,
                                                               {token, end, column, call.experts.columns});
      stage_activations<Scalar, Tile::kTokens, Tile::kRank>(strip + Tile::kStrip, call.hidden,
                                                            {token, end, 0, call.experts.rank});
    }
    copy_commit();
  };
#pragma unroll
  for (int tile = 0; tile < Tile::kStages - 1; ++tile) fill(tile);
  find_weights(mix, call.weights);
  combine_tile<Scalar, Tile::kRank, Tile::kColumns>(weights, call.experts, mix, 0, column);

  const int warp = threadIdx.x / kWarp, own = warp * Tile::kWarpColumns;
  Accumulators<Tile::kRank / 16, Tile::kWarpColumns / 8> z;
  clear(z);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    fill(tile + Tile::kStages - 1);
    const Scalar *strip = ring + tile % Tile::kStages * (Tile::kStrip + Tile::kLeft);
    multiply<Engine, Along::kOuter, Tile::kRank, Along::kOuter, Tile::kColumns>(z, strip + Tile::kStrip, 0, strip, own,
                                                                                0, Tile::kTokens / Engine::kDepth);
    const int half = warp % kHalves, row = warp / kHalves * Tile::kWarpRank;
    Accumulators<1, Tile::kWarpRank / 8> q;
    clear(q);
#pragma unroll
    for (int line = 0; line < kChunkLines; ++line)
      multiply<Engine, Along::kDepth, Tile::kColumns, Along::kDepth, Tile::kColumns>(
          q, strip, 0, weights, row, (line * kHalves + half) * Tile::kHalf, Tile::kHalf / Engine::kDepth);
    for_each_pair(q, [&](int t, int k, float first, float second) {
      store_pair(hidden_parts + half * Tile::kHidden + t * Tile::kHiddenPitch + row + k, first, second);
    });
    __syncthreads();
    const int count = min(Tile::kTokens, end - begin - tile * Tile::kTokens);
    for (int i = threadIdx.x; i < count * (call.q_pitch / 4); i += kThreads) {
      const int t = i / (call.q_pitch / 4), k = i % (call.q_pitch / 4) * 4;
      float sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kHalves; ++w) {
        float part[4];
        load_four(hidden_parts + w * Tile::kHidden + t * Tile::kHiddenPitch + k, 4, true, part);
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[v] += part[v];
      }
      const int64_t row = static_cast<int64_t>(at.slice) * call.tokens + begin + tile * Tile::kTokens + t;
      store_four(call.q_parts + row * call.q_pitch + k, 4, true, sum);
    }
  }
  copy_wait<0>();
  __syncthreads();
  auto *result = reinterpret_cast<float *>(shared);
  for_each_pair(z, [&](int k, int n, float first, float second) {
    store_pair(result + k * Tile::kResultPitch + own + n, first, second);
  });
  __syncthreads();
  finish_outer<Tile>(result, call.target, at);
  find_expert_losses<Tile>(shared, call.losses, at, call.scale, blockIdx.x);
}

}  // namespace lily::cuda
