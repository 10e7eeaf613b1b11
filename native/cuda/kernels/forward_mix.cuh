// Forward, second phase with weights per token: adds the adapter's output to y. Symbols as in docs/math.md.
//
//   y_t (+)= s u_t B    u_t = w_t (x) h_t: B is one matrix of E r rows
//
// Each block owns BLOCK_N columns and iterates over tokens in tiles of BLOCK_M. Tiles of h and w lie in shared memory;
// u exists only as fragments in registers, which a warp forms from them where it multiplies. If they fit, the block's
// columns of all of B stay in shared memory, and a tile of tokens needs one barrier; otherwise B is streamed again for
// each tile of tokens.
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

// The weights of a tile of tokens, E per token; the weights of tokens from `count` on, and of no group, are zero.
template <int kBlockM>
__device__ inline void stage_weights(float *tile, const TokenWeights &weights, int token, int count) {
  for (int i = threadIdx.x; i < kBlockM * weights.experts; i += kThreads) {
    const float *row = i < count * weights.experts ? weights.of(token + i / weights.experts) : nullptr;
    if (row == nullptr) {
      tile[i] = 0;
      continue;
    }
    const float *weight = row + i % weights.experts;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    tile[i] = *weight;
#else
    copy_async_4(tile + i, weight);
#endif
  }
}

// Column e r + k of u.
struct UColumn {
  int expert, k;

  __device__ UColumn after(int columns, int rank) const {
    UColumn column = {expert, k + columns};
    while (column.k >= rank) {
      column.k -= rank;
      ++column.expert;
    }
    return column;
  }
};

// Forms fragments of u from a tile of h and w, step by step along the columns of u. The columns of a fragment are one
// or two groups. If r is a multiple of a group's columns, each group is of one expert, whose weights stay in registers.
template <typename Tile>
class UFragments {
 public:
  using Engine = typename Tile::Engine;
  using Scalar = typename Tile::Scalar;
  using Fragment = typename Fragments<Engine>::A;

  // From row m of the tile on.
  __device__ UFragments(const Scalar *hidden, const float *weights, const ForwardMix &call, int m)
      : hidden_(hidden + (m + lane_row()) * call.hidden_pitch),
        weights_(weights + (m + lane_row()) * call.experts),
        rows_(hidden + m * call.hidden_pitch),
        pitch_(call.hidden_pitch),
        rank_(call.rank),
        experts_(call.experts),
        whole_(call.rank % kGroup == 0) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      column_[g] = UColumn{0, 0}.after(g * kGroup, rank_);
      load_weights(g);
    }
  }

  // The next kStepK columns.
  __device__ void advance() {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int expert = column_[g].expert;
      column_[g] = column_[g].after(Engine::kStepK, rank_);
      if (column_[g].expert != expert) load_weights(g);
    }
  }

  // Forms the fragment of rows 16 i .. 16 i + 15.
  __device__ void form(Fragment &u, int i) const {
    if constexpr (sizeof(Scalar) == 2) {
      if (whole_) {
        const int lane = threadIdx.x % kWarp;
        load_matrices(u, rows_ + (16 * i + lane % 16) * pitch_ + (lane < 16 ? column_[0].k : column_[1].k));
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          const float2 h = unpack(u[v], Scalar{});
          const float w = w_[v / 2][i][v % 2];
          u[v] = column_[v / 2].expert < experts_ ? pack<Scalar>(h.x * w, h.y * w) : 0;
        }
      } else {
        const int c = threadIdx.x % 4 * 2;
#pragma unroll
        for (int v = 0; v < 4; ++v) u[v] = pack<Scalar>(element(i, v % 2, v / 2, c), element(i, v % 2, v / 2, c + 1));
      }
    } else if constexpr (kGroups == 2) {
#pragma unroll
      for (int v = 0; v < 4; ++v) u[v] = to_tf32(element(i, v % 2, v / 2, threadIdx.x % 4));
    } else {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        u.low[v] = element(i, 0, 0, v);
        u.high[v] = element(i, 1, 0, v);
      }
    }
  }

 private:
  static constexpr int kGroup = sizeof(Scalar) == 2 ? 8 : 4, kGroups = Engine::kStepK / kGroup;

  // A lane holds elements of this row of a fragment, and of the row 8 below.
  __device__ static int lane_row() { return threadIdx.x % kWarp / 4; }

  __device__ void load_weights(int g) {
    if (!whole_ || column_[g].expert >= experts_) return;
#pragma unroll
    for (int i = 0; i < Tile::kM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        w_[g][i][half] = g > 0 && column_[g].expert == column_[0].expert
                             ? w_[0][i][half]
                             : weights_[(16 * i + 8 * half) * experts_ + column_[g].expert];
  }

  // Element `c` of group g, in row lane_row() + 8 half of the rows of `i`; zero outside of u.
  __device__ float element(int i, int half, int g, int c) const {
    const int row = 16 * i + 8 * half;
    const UColumn at = whole_ ? UColumn{column_[g].expert, column_[g].k + c} : column_[g].after(c, rank_);
    if (at.expert >= experts_) return 0;
    const float w = whole_ ? w_[g][i][half] : weights_[row * experts_ + at.expert];
    return to_float(hidden_[row * pitch_ + at.k]) * w;
  }

  const Scalar *hidden_;
  const float *weights_;
  const Scalar *rows_;
  const int pitch_, rank_, experts_;
  const bool whole_;
  UColumn column_[kGroups];  // the first of each group
  float w_[kGroups][Tile::kM][2];
};

// sum += u b over the next `depth` columns of u, rounded up to whole steps: b is a tile of rows of B, from column n on.
template <typename Tile>
__device__ inline void multiply_u(Accumulators<Tile::kM, Tile::kN> &sum, UFragments<Tile> &u,
                                  const typename Tile::Scalar *b, int n, int depth) {
  using Engine = typename Tile::Engine;
  using Loads = Fragments<Engine>;
#pragma unroll 1
  for (int k = 0; k < depth; k += Engine::kStepK) {
    typename Loads::B b_fragments[Tile::kN];
    Loads::template load_b<Along::kOuter, Tile::kBlockN, 8>(b_fragments, b, n, k);
#pragma unroll
    for (int i = 0; i < Tile::kM; ++i) {
      typename Loads::A u_fragment;
      u.form(u_fragment, i);
#pragma unroll
      for (int j = 0; j < Tile::kN; ++j) Loads::multiply(sum[i][j], u_fragment, b_fragments[j]);
    }
    u.advance();
  }
}

template <typename Tile>
__device__ __forceinline__ void forward_mix_block(const ForwardMix &call, const Block &at) {
  if constexpr (!kHasCode<Tile, kMixBytes<Tile>>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  const int column = at.x % call.column_tiles * Tile::kBlockN;
  const int begin = at.x / call.column_tiles * call.split_tokens;
  const int end = min(begin + call.split_tokens, call.tokens);
  const int columns = call.experts * call.rank, k_tiles = call.k_tiles, stages = call.stages;
  const int tiles = max((end - begin + Tile::kBlockM - 1) / Tile::kBlockM, 0), steps = tiles * k_tiles;
  const int hidden_tile = Tile::kBlockM * call.hidden_pitch;
  const int weights_tile = Tile::kBlockM * call.experts;

  auto *y_ring = reinterpret_cast<Scalar *>(shared);
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
    if (tile < tiles)
      stage_old<typename Tile::Engine, Tile::kBlockM, Tile::kBlockN>(y_ring + tile % stages * Tile::kStrip, call.y,
                                                                     {first_token(tile), end, column, call.columns});
  };
  const auto fill_b = [&](int k_tile, int place) {
    stage<Scalar, Tile::kBlockK, Tile::kBlockN>(b_tiles + place * Tile::kRhs, call.b,
                                                {k_tile * Tile::kBlockK, columns, column, call.columns});
  };

  const int warp = threadIdx.x / kWarp;
  const int warp_m = warp / Tile::kWarpsN * Tile::kM * 16, warp_n = warp % Tile::kWarpsN * Tile::kN * 8;
  Accumulators<Tile::kM, Tile::kN> sum;
  clear(sum);
  wait_for_previous_launch();
  const int first_tiles = call.b_stays ? k_tiles : min(steps, Tile::kRhsStages - 1);
#pragma unroll 1
  for (int place = 0; place < first_tiles; ++place) fill_b(place % k_tiles, place);
#pragma unroll 1
  for (int tile = 1 - stages; tile < tiles; ++tile) {  // the first tiles only fill: the code of it is there once
    if (tile == 0)
      copy_wait<0>();
    else if (tile > 0)
      copy_wait<1>();  // of a step, whatever was issued two steps before has arrived
    __syncthreads();
    fill_hidden(tile + stages - 1);
    fill_y(tile + stages - 1);
    if (tile < 0) {
      copy_commit();
      continue;
    }
    UFragments<Tile> u(hidden_ring + tile % stages * hidden_tile, weights_ring + tile % stages * weights_tile, call,
                       warp_m);
#pragma unroll 1
    for (int k_tile = 0; k_tile < k_tiles; ++k_tile) {
      const int step = tile * k_tiles + k_tile, next = step + Tile::kRhsStages - 1;
      if (k_tile > 0 && !call.b_stays) {
        copy_wait<1>();
        __syncthreads();
      }
      if (!call.b_stays && next < steps) fill_b(next % k_tiles, next % Tile::kRhsStages);
      copy_commit();
      reconverge();
      const Scalar *b = b_tiles + (call.b_stays ? k_tile : step % Tile::kRhsStages) * Tile::kRhs;
      multiply_u(sum, u, b, warp_n, min(columns - k_tile * Tile::kBlockK, Tile::kBlockK));
    }
    Scalar *y = y_ring + tile % stages * Tile::kStrip;
    const Window window = {first_token(tile), end, column, call.columns};
    load_old<typename Tile::Engine, Tile::kBlockM, Tile::kBlockN>(y, call.y, window);
    add_scaled<Scalar, Tile::kBlockN>(y, sum, warp_m, warp_n, call.scale, call.y.accumulate);
    clear(sum);
    __syncthreads();
    unstage<typename Tile::Engine, Tile::kBlockM, Tile::kBlockN>(y, call.y, window);
  }
  copy_wait<0>();  // of B, if there was no tile
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_mix(const __grid_constant__ ForwardMix call) {
  forward_mix_block<Tile>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(kThreads, kBlocks) void forward_mix_list(const __grid_constant__ List<ForwardMix> list) {
  run_part(list, [](const ForwardMix &call, const Block &at) { forward_mix_block<Tile>(call, at); });
}

}  // namespace lily::cuda
