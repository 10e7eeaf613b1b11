// Backward, between the phases of dy and of x: dh and dl, if the first phase cannot complete them. Symbols as in
// docs/math.md.
//
//   dw = the sum of its partial sums                          (one pooling group)
//   dw_g = sum of dw_te over the sequence                     (sequences)
//   dl from dw and p    dh = (q + dl R) phi'                  q: the sum of its partial sums
//
// Each block owns a few tiles of tokens, so that the number of blocks, and with it the reads of dw, stays bounded.
//
// Global memory traffic: q, p and, with relu, h once; dh and dl written once; per block the partial sums of dw, or the
// rows of dw of the sequences that its tokens belong to, from L2.
#pragma once

#include "cuda/kernels/d_hidden.cuh"

namespace lily::cuda {

struct BackwardHidden {
  DHidden d_hidden;
  const float *q;  // q_partials x M x q_pitch; null: dh is not required
  int q_partials, q_pitch;
  float scale;  // of q
  int tokens, block_tokens;
};

// Shared memory for the groups of a tile, numbered in the order of the tokens.
struct TileGroups {
  float *d_weights;  // rows of E
  float *kept;
  int *group;
  float *slices;  // kPoolRound x kPoolSlices x 5

  __device__ TileGroups(float *base, int experts)
      : d_weights(base),
        kept(base + kHiddenTokens * experts),
        group(reinterpret_cast<int *>(kept + kHiddenTokens)),
        slices(kept + 2 * kHiddenTokens) {}

  __device__ float *end() const { return slices + kPoolRound * kPoolSlices * 5; }
};

// Numbers the groups of the tile's tokens; returns their number. Tokens of no group count as some group's, which does
// not matter, because they have no gradient. Ends with a barrier.
__device__ inline int number_groups(const DHidden &call, const DHiddenScratch<kHiddenTokens> &scratch,
                                    const TileGroups &groups, int token, int token_end) {
  const int t = static_cast<int>(threadIdx.x) % kWarp, at = min(token + t, token_end - 1);
  const int own = call.router.groups.of(at), group = max(own, 0), previous = __shfl_up_sync(0xffffffffu, group, 1);
  const unsigned begins = __ballot_sync(0xffffffffu, t == 0 || group != previous);
  if (threadIdx.x < kWarp) {
    const int row = __popc(begins & (0xffffffffu >> (kWarp - 1 - t))) - 1;
    const bool has_gradient = call.with_gradient.weights == nullptr ? own >= 0 : call.with_gradient.contains(at);
    scratch.row[t] = has_gradient ? row : -1;
    if ((begins >> t & 1) != 0) groups.group[row] = group;
  }
  __syncthreads();
  return __popc(begins);
}

// Adds dw and the number of kept tokens of the tile's groups. Ends with a barrier.
__device__ inline void add_groups(const RouterGradient &router, const TileGroups &groups, int count) {
  const PoolRows rows = {router.d_weights, router.experts, router.experts, router.mask, 0};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int first = 0; first < count; first += kPoolRound) {
    const int round = min(kPoolRound, count - first);
    for (int expert = 0; expert < router.experts; expert += 4) {
      // The warps take turns, because most groups are short and have few slices.
      for (int i = 0; i < round * kPoolSlices / kWarps; ++i) {
        const int g = i / (kPoolSlices / kWarps);
        const int slice = i % (kPoolSlices / kWarps) * kWarps + (warp + g) % kWarps;
        const int group = groups.group[first + g];
        const int begin = router.groups.begin(group), end = router.groups.end(group);
        if (slice >= pool_slices(begin, end)) continue;
        float share[5];
        pool_slice(rows, begin, end, slice, expert, share);
        if (threadIdx.x % kWarp != 0) continue;
#pragma unroll
        for (int v = 0; v < 5; ++v) groups.slices[(g * kPoolSlices + slice) * 5 + v] = share[v];
      }
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < round * 5) {
        const int g = static_cast<int>(threadIdx.x) / 5, v = static_cast<int>(threadIdx.x) % 5;
        const int group = groups.group[first + g];
        const int slices = pool_slices(router.groups.begin(group), router.groups.end(group));
        float sum = 0;
        for (int slice = 0; slice < slices; ++slice) sum += groups.slices[(g * kPoolSlices + slice) * 5 + v];
        if (v == 4)
          groups.kept[first + g] = sum;
        else if (expert + v < router.experts)
          groups.d_weights[(first + g) * router.experts + expert + v] = sum;
      }
      __syncthreads();
    }
  }
}

// One kernel for all engines: operands may have any type, and dh is rounded as it is stored.
__device__ __forceinline__ void backward_hidden_block(const BackwardHidden &call, const Block &at) {
  extern __shared__ __align__(16) char shared[];
  const DHidden &d_hidden = call.d_hidden;
  const RouterGradient &router = d_hidden.router;
  const bool adds_groups = router.source == DWeightsSource::kGroups && router.logit_gradient != LogitGradient::kNone;
  const TileGroups groups(reinterpret_cast<float *>(shared), router.experts);
  const DHiddenScratch<kHiddenTokens> scratch(adds_groups ? groups.end() : reinterpret_cast<float *>(shared),
                                              router.experts);
  const int lanes = d_hidden_lanes(d_hidden.rank);
  const int begin = at.x * call.block_tokens, end = min(begin + call.block_tokens, call.tokens);
  int added = -1;  // the group whose dw is in shared memory, if it is one
  wait_for_previous_launch();
  prepare_router_gradient(router, scratch);
  for (int token = begin; token < end; token += kHiddenTokens) {
    if (adds_groups) {
      const int count = number_groups(d_hidden, scratch, groups, token, end);
      if (count > 1 || groups.group[0] != added) add_groups(router, groups, count);
      added = count > 1 ? -1 : groups.group[0];
    } else {
      find_rows(d_hidden, scratch, token, end);
      __syncthreads();
    }
    if (router.logit_gradient != LogitGradient::kNone)
      form_d_logits(d_hidden, scratch,
                    adds_groups ? GroupRows{groups.d_weights, groups.kept, groups.group} : GroupRows{}, token, end,
                    true);
    for (int column = 0; call.q != nullptr && column < d_hidden.rank; column += 4 * lanes)
      store_d_hidden<Exact>(d_hidden, scratch, token, end, column, d_hidden.rank, lanes,
                            [&](auto whole, const RowsInFlight &rows, int k, auto &value) {
                              const QPartials q = {call.q + static_cast<int64_t>(token) * call.q_pitch + k,
                                                   static_cast<int64_t>(call.tokens) * call.q_pitch, call.q_partials,
                                                   call.q_pitch};
                              load_q<decltype(whole)::value>(q, d_hidden.rank - k, call.scale, rows, value);
                            });
    __syncthreads();  // the next tile uses the same scratch memory
  }
}

template <typename Unused>
__global__ __launch_bounds__(kThreads,
                             kHiddenBlocks) void backward_hidden(const __grid_constant__ BackwardHidden call) {
  backward_hidden_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kThreads, kHiddenBlocks) void backward_hidden_list(
    const __grid_constant__ List<BackwardHidden> list) {
  run_part(list, [](const BackwardHidden &call, const Block &at) { backward_hidden_block(call, at); });
}

}  // namespace lily::cuda
