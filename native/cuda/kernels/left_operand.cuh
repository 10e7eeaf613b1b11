// The left operand of the strip products: for each token a row of r or E r elements. Symbols as in docs/math.md.
//
//   kHidden   h_t, or dh_t                 one pooling group: y = s h C, D = s h^T dy; and dx = dh A, dA = dh^T x
//   kU        u_t[e r + k] = w_te h_t[k]   weights per token: no C is formed; computed as it is loaded
#pragma once

#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

enum class LeftOperandKind { kHidden, kU };

struct LeftOperand {
  LeftOperandKind kind;
  Operand hidden;  // M x r, in the type of a tile
  int rank;        // r
  int columns;     // r, or E r
  TokenWeights token_weights;
  int one_hot;  // kU: weight 1 for the token's group and 0 for others, which keeps the groups' products apart
};

// Computes a tile of u. kWhole requires r to be a multiple of 4 and rows of h to begin at multiples of four elements.
template <typename Engine, bool kWhole, int kBlockM, int kBlockK, int kBlockThreads>
__device__ inline void form_u(typename Engine::Scalar *tile, const LeftOperand &lhs, const int *group_of, int token,
                              int token_end, int column) {
  using Scalar = typename Engine::Scalar;
  constexpr Types<Scalar> kTypes;
  constexpr int kVec4PerRow = kBlockK / 4, kStep = kBlockThreads / kVec4PerRow,
                kLoadsInFlight = kTileLoadsInFlight<kWhole, kBlockM, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kVec4PerRow * 4, j = column + c;
  const int count = j < lhs.columns ? min(token_end - token, kBlockM) : 0;
  const bool by_token = lhs.token_weights.per_token && !lhs.one_hot;
  const auto weight = [&](int t, int e) {
    const int64_t group = by_token ? token + t : group_of[t];
    if (lhs.one_hot) return e == group ? 1.0f : 0.0f;
    return group < 0 ? 0.0f : lhs.token_weights.weights[group * lhs.token_weights.experts + e];
  };
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < kBlockM; first += kLoadsInFlight * kStep) {
    if constexpr (kWhole) {
      float value[kLoadsInFlight][4] = {}, w[kLoadsInFlight] = {};
      if (first < count) {
        const auto row_of = [&](int n) { return min(first + n * kStep, count - 1); };
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) w[n] = weight(row_of(n), j / lhs.rank);
        load_vectors<true>(kTypes, lhs.hidden, j % lhs.rank, 4, [&](int n) { return token + row_of(n); }, value);
      }
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
#pragma unroll
        for (int v = 0; v < 4; ++v) value[n][v] = first + n * kStep < count ? value[n][v] * w[n] : 0.0f;
        store_tile(tile + place<Scalar, kBlockK>(first + n * kStep, c), value[n]);
      }
    } else {
      float value[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int e = (j + v) / lhs.rank, k = (j + v) % lhs.rank;
        value[v] = 0;
        if (first >= count || j + v >= lhs.columns) continue;
        const auto *hidden = static_cast<const Scalar *>(lhs.hidden.data);
        value[v] = weight(first, e) * to_float(hidden[(token + first) * lhs.hidden.pitch + k]);
      }
      store_tile(tile + place<Scalar, kBlockK>(first, c), value);
    }
  }
}

// Fills a kBlockM x kBlockK tile with columns [column, ...) of a stored operand, asynchronously; elements outside are
// zero. Does nothing for u.
template <typename Engine, int kBlockM, int kBlockK, int kBlockThreads = kThreads>
__device__ inline void copy_lhs(typename Engine::Scalar *tile, const LeftOperand &lhs, int token, int token_end,
                                int column) {
  if (lhs.kind == LeftOperandKind::kHidden)
    stage<typename Engine::Scalar, kBlockM, kBlockK, kBlockThreads>(tile, lhs.hidden,
                                                                    {token, token_end, column, lhs.columns});
}

// Like copy_lhs, for u. `group_of` is scratch memory for kBlockM numbers.
template <typename Engine, int kBlockM, int kBlockK, int kBlockThreads = kThreads>
__device__ inline void compute_lhs(typename Engine::Scalar *tile, const LeftOperand &lhs, int *group_of, int token,
                                   int token_end, int column) {
  if (lhs.kind != LeftOperandKind::kU) return;
  if (lhs.one_hot || !lhs.token_weights.per_token) {
    for (int t = threadIdx.x; t < kBlockM; t += kBlockThreads) group_of[t] = lhs.token_weights.groups.of(token + t);
    __syncthreads();
  }
  with_whole(lhs.rank % 4 == 0 && has_vec4(lhs.hidden), [&](auto whole) {
    form_u<Engine, decltype(whole)::value, kBlockM, kBlockK, kBlockThreads>(tile, lhs, group_of, token, token_end,
                                                                            column);
  });
}

}  // namespace lily::cuda
