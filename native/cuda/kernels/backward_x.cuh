// Backward, last phase but one: every product that reads dh or dl. Symbols as in docs/math.md.
//
//   dx (+)= dh A    dA = dh^T x    dR = dl^T h
//
// Strip blocks own BLOCK_N columns and iterate over tokens. One block computes both dx and dA if BLOCK_K covers the
// rank; otherwise separate blocks compute dx and each row tile of dA. Further blocks compute dR, which needs neither x
// nor dx.
//
// Global memory traffic: x once; dx written once, and read once if it accumulates; dh once per column tile, from L2; dl
// and h once for each kRouterElements elements of dR.
#pragma once

#include "cuda/kernels/gradient.cuh"

namespace lily::cuda {

// dR, as partial sums over splits of the tokens.
struct RouterBlocks {
  const float *d_logits;  // M x E
  int experts;
  int splits, element_tiles;  // of tokens, of elements; one block for each pair
  int split_tokens;           // a multiple of kRouterTile
  int tokens, rank;
  Operand hidden;
  float *partials;  // splits x (E r)
};

struct BackwardX {
  StripOperands strip;
  Dropout dropout;
  int column_tiles, splits;
  int expand_blocks;  // first in the grid; with outer_blocks 0 they also compute dA, if it has a target
  int outer_blocks;   // blocks that compute only dA
  OuterTarget target;
  RouterBlocks router;
};

// Returns sum + <h column, dl column> over `tokens` tokens from element `at` of h on; kCount loads of h are in flight.
// A token whose dl is 0, such as a masked one, is left out, because its h may be NaN.
template <typename Engine>
__device__ inline float add_router_column(float sum, const Operand &hidden, int64_t at, const float *d_logits,
                                          int experts, int tokens) {
  constexpr int kCount = 16;
#pragma unroll 1
  for (int first = 0; first < tokens; first += kCount) {
    float h[kCount];
    with_type(typename Engine::Activations{}, hidden.dtype, [&](auto tag) {
      using T = decltype(tag);
      const T *from = static_cast<const T *>(hidden.data) + at;
      T raw[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) raw[i] = from[min(first + i, tokens - 1) * hidden.pitch];
#pragma unroll
      for (int i = 0; i < kCount; ++i) h[i] = to_float(raw[i]);
    });
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float d_logit = d_logits[min(first + i, tokens - 1) * experts], next = fmaf(d_logit, h[i], sum);
      sum = first + i < tokens && d_logit != 0 ? next : sum;
    }
  }
  return sum;
}

template <typename Engine, int kBlockThreads = kThreads>
__device__ inline void backward_router(char *shared, const RouterBlocks &call, int index) {
  const int split = index % call.splits, element_tile = index / call.splits;
  const int elements = call.experts * call.rank, first = element_tile * kRouterElements;
  const int own = min(elements - first, kRouterElements);
  auto *d_logits = reinterpret_cast<float *>(shared);
  float *sums = d_logits + kRouterTile * call.experts;  // of this thread, one for every kBlockThreads-th element
#pragma unroll 1
  for (int i = threadIdx.x; i < kRouterElements; i += kBlockThreads) sums[i] = 0;
  const int begin = split * call.split_tokens, end = min(begin + call.split_tokens, call.tokens);
  for (int token = begin; token < end; token += kRouterTile) {
    const int count = min(kRouterTile, end - token);
    for (int i = threadIdx.x; i < count * call.experts; i += kBlockThreads)
      d_logits[i] = call.d_logits[static_cast<int64_t>(token) * call.experts + i];
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < own; i += kBlockThreads) {
      const int e = (first + i) / call.rank, k = (first + i) % call.rank;
      sums[i] = add_router_column<Engine>(sums[i], call.hidden, token * call.hidden.pitch + k, d_logits + e,
                                          call.experts, count);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < own; i += kBlockThreads)
    call.partials[static_cast<int64_t>(split) * ((elements + 3) / 4 * 4) + first + i] = sums[i];
}

// kDrops: there may be dropout. Lists have none.
template <typename Tile, bool kDrops>
__device__ __forceinline__ void backward_x_block(const BackwardX &call, const Block &block) {
  if constexpr (!kHasCode<Tile, kBothBytes<Tile>>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  extern __shared__ __align__(16) char shared[];
  int index = block.x;
  wait_for_previous_launch();
  if (index >= call.expand_blocks + call.outer_blocks) {
    backward_router<typename Tile::Engine, Tile::kThreads>(shared, call.router,
                                                           index - call.expand_blocks - call.outer_blocks);
    return;
  }
  const bool expands = index < call.expand_blocks && call.strip.out.data != nullptr;
  const bool has_outer = call.outer_blocks == 0 ? call.target.out.data != nullptr : index >= call.expand_blocks;
  if (index >= call.expand_blocks) index -= call.expand_blocks;
  StripIndex at;
  at.column_tile = index % call.column_tiles;
  at.split = index / call.column_tiles % call.splits;
  at.row_tile = index / call.column_tiles / call.splits;
  const int column = at.column_tile * Tile::kBlockN;
  const auto fill_rhs = [&](Scalar *tile, int row) {
    stage_rhs<Tile>(tile, call.strip.w, call.strip.lhs.columns, row, column, call.strip.columns);
  };
  const float *z =
      walk_strip<Tile, true, true, kDrops>(shared, call.strip, at, expands, has_outer, fill_rhs, call.dropout);
  allow_next_launch();
  if (has_outer) finish_outer<Tile>(z, call.target, at);
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocks) void backward_x(const __grid_constant__ BackwardX call) {
  backward_x_block<Tile, true>(call, block_of_grid());
}

template <typename Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kBlocks) void backward_x_list(const __grid_constant__ List<BackwardX> list) {
  run_part(list, [](const BackwardX &call, const Block &at) { backward_x_block<Tile, false>(call, at); });
}

}  // namespace lily::cuda
