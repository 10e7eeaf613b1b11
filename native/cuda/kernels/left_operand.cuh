// The left operand of the strip products: for each token a row of r or E r elements, which is either stored (h) or
// computed as it is loaded. Symbols as in docs/math.md.
//
//   kHidden    h_t                                    one pooling group: y = s h C, D = s h^T dy
//   kU         u_t[e r + k] = w_te h_t[k]             weights per token: no C is formed
//   kDHidden   dh_t = (q_t + sum_e dl_te R_e) phi'    never stored
//
// dl_t = p_t * (dp_t - <p_t, dp_t>) is computed as p_te sum_j p_tj (dp_te - dp_tj), which avoids cancellation where
// p_te is near 1.
#pragma once

#include "cuda/kernels/token_weights.cuh"

namespace lily::cuda {

// How the gradient reaches the logits: through each token's probabilities, or through the softmax of pooled logits.
enum class LogitGradient { kNone, kProbabilities, kLogits };

struct RouterGradient {
  LogitGradient logit_gradient;
  Operand router;              // E x r
  const float *probabilities;  // M x E, for kProbabilities
  const float *weights;        // G x E, for kLogits
  // dw in rows of E: one row per token (token routing, where it is dp), or one row per group. With one pooling group: E
  // rows of `partial_count` partial sums.
  const float *d_weights;
  int per_token, partial_count;
  const float *kept;    // G: number of kept tokens per group; may be null
  float kept_constant;  // the divisor without `kept`
  const uint8_t *mask;  // may be null
  Groups groups;
  int experts;
};

enum class LeftOperandKind { kHidden, kU, kDHidden };

struct LeftOperand {
  LeftOperandKind kind;
  Operand hidden;  // M x r; kDHidden requires it only with relu
  int rank;        // r
  int columns;     // r, or E r
  TokenWeights token_weights;
  int one_hot;     // kU: weight 1 for the token's group and 0 for others, which keeps the groups' products apart
  const float *q;  // M x q_pitch
  int q_pitch;
  int relu;
  RouterGradient router;
};

// Scratch in shared memory: the group of each token, dl and what it is computed from, and dw of the one group.
template <int kBlockM>
struct LhsScratch {
  int *group;
  float *d_weights;
  float *d_logits, *probs, *d_probs;  // rows of E

  __device__ LhsScratch(float *base, int experts)
      : group(reinterpret_cast<int *>(base)),
        d_weights(base + kBlockM),
        d_logits(base + kBlockM + experts),
        probs(d_logits + kBlockM * experts),
        d_probs(probs + kBlockM * experts) {}
};

// Adds the partial sums of dw. Called once per block, before the first tile.
template <int kBlockM>
__device__ inline void prepare_router_gradient(const RouterGradient &router, const LhsScratch<kBlockM> &scratch) {
  if (router.logit_gradient != LogitGradient::kNone && router.partial_count > 0)
    sum_rows(scratch.d_weights, router.d_weights, router.experts, router.partial_count);
  __syncthreads();
}

// Computes dl of the tile's tokens. Ends with a barrier.
template <int kBlockM>
__device__ inline void form_d_logits(const RouterGradient &router, const LhsScratch<kBlockM> &scratch, int token,
                                     int token_end) {
  const int experts = router.experts;
  const bool from_logits = router.logit_gradient == LogitGradient::kLogits;
  const bool staged = experts <= kMostStagedExperts && !from_logits;
  if (staged) {
    const int64_t first = static_cast<int64_t>(token) * experts;
    for (int i = threadIdx.x; i < (token_end - token) * experts && i < kBlockM * experts; i += kThreads) {
      scratch.probs[i] = router.probabilities[first + i];
      if (router.per_token) scratch.d_probs[i] = router.d_weights[first + i];
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kBlockM * experts; i += kThreads) {
    const int t = i / experts, e = i % experts, at = token + t;
    float d_logit = 0;
    const bool keeps = at < token_end && (router.mask == nullptr || router.mask[at] != 0);
    if (keeps) {
      const int group = router.per_token ? at : router.groups.of(at);
      const int64_t row = static_cast<int64_t>(group) * experts;
      const float *d_weights = router.partial_count > 0     ? scratch.d_weights
                               : staged && router.per_token ? scratch.d_probs + t * experts
                                                            : router.d_weights + row;
      const float *p = from_logits ? router.weights + row
                       : staged    ? scratch.probs + t * experts
                                   : router.probabilities + static_cast<int64_t>(at) * experts;
      for (int j = 0; j < experts; ++j) d_logit = fmaf(p[j], d_weights[e] - d_weights[j], d_logit);
      d_logit *= p[e];
      d_logit /= router.kept != nullptr ? router.kept[group] : router.kept_constant;
    }
    scratch.d_logits[t * experts + e] = d_logit;
  }
  __syncthreads();
}

// Whether elements k .. k + 3 of R and of h, as far as dh needs them, can be loaded as one 4-element vector.
__device__ inline bool has_vec4_d_hidden(const LeftOperand &lhs, int k) {
  return lhs.rank - k >= 4 && (lhs.router.logit_gradient == LogitGradient::kNone || has_vec4(lhs.router.router)) &&
         (!lhs.relu || has_vec4(lhs.hidden));
}

// Completes dh from q in place, for kLoadsInFlight rows of the tile: elements k .. k + 3 of row t, which is token `at`,
// of row t + step, and so on. Rows beyond the last token stay zero. Requires dl.
template <typename Scalar, bool kWhole, int kBlockM, int kLoadsInFlight>
__device__ inline void finish_d_hidden(const LeftOperand &lhs, const LhsScratch<kBlockM> &scratch, int t, int step,
                                       int at, int token_end, int k, float (&value)[kLoadsInFlight][4]) {
  const RouterGradient &router = lhs.router;
  if (router.logit_gradient != LogitGradient::kNone) {
    with_type<Scalar>(router.router.dtype, [&](auto tag) {
      using T = decltype(tag);
      constexpr int kExpertsInFlight = kWhole ? 4 : 1;
      const T *from = static_cast<const T *>(router.router.data) + k;
#pragma unroll 1
      for (int first = 0; first < router.experts; first += kExpertsInFlight) {
        Vec4<T> raw[kExpertsInFlight];
#pragma unroll
        for (int i = 0; i < kExpertsInFlight; ++i)
          raw[i] = load_raw<kWhole>(from + min(first + i, router.experts - 1) * router.router.pitch, lhs.rank - k);
#pragma unroll
        for (int i = 0; i < kExpertsInFlight; ++i) {
          const int e = min(first + i, router.experts - 1);
          float r[4];
          convert<T>(raw[i], r);
#pragma unroll
          for (int n = 0; n < kLoadsInFlight; ++n) {
            const bool adds = first + i < router.experts && at + n * step < token_end;
            const float d_logit = scratch.d_logits[(t + n * step) * router.experts + e];
#pragma unroll
            for (int v = 0; v < 4; ++v) value[n][v] = adds ? fmaf(d_logit, r[v], value[n][v]) : value[n][v];
          }
        }
      }
    });
  }
  if (lhs.relu) {
    with_activation_type<Scalar>(lhs.hidden.dtype, [&](auto tag) {
      using T = decltype(tag);
      const T *from = static_cast<const T *>(lhs.hidden.data) + k;
      Vec4<T> raw[kLoadsInFlight];
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n)
        raw[n] = load_raw<kWhole>(from + min(at + n * step, token_end - 1) * lhs.hidden.pitch, lhs.rank - k);
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        float h[4];
        convert<T>(raw[n], h);
#pragma unroll
        for (int v = 0; v < 4; ++v)
          if (!(h[v] > 0)) value[n][v] = 0;
      }
    });
  }
}

// Computes a tile of dh. Requires dl.
template <typename Scalar, bool kWhole, int kBlockM, int kBlockK>
__device__ inline void form_d_hidden(Scalar *tile, const LeftOperand &lhs, const LhsScratch<kBlockM> &scratch,
                                     int token, int token_end, int column) {
  constexpr int kVec4PerRow = kBlockK / 4, kStep = kThreads / kVec4PerRow,
                kLoadsInFlight = kTileLoadsInFlight<kWhole, kBlockM, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kVec4PerRow * 4, k = column + c;
  const int count = k < lhs.rank ? min(token_end - token, kBlockM) : 0;
  const float *q = lhs.q + token * static_cast<int64_t>(lhs.q_pitch) + k;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < kBlockM; first += kLoadsInFlight * kStep) {
    float4 raw[kLoadsInFlight] = {};
    if (count > 0) {
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n)
        raw[n] =
            load_raw<kWhole>(q + min(first + n * kStep, count - 1) * static_cast<int64_t>(lhs.q_pitch), lhs.rank - k);
    }
    float value[kLoadsInFlight][4];
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) convert<float>(first + n * kStep < count ? raw[n] : float4{}, value[n]);
    if (count > 0) finish_d_hidden<Scalar, kWhole>(lhs, scratch, first, kStep, token + first, token_end, k, value);
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) store_tile(tile + place<Scalar, kBlockK>(first + n * kStep, c), value[n]);
  }
}

// Computes a tile of u from h of type T. kWhole requires r to be a multiple of 4 and rows of h to begin at multiples of
// four elements.
template <typename Scalar, typename T, bool kWhole, int kBlockM, int kBlockK>
__device__ inline void form_u(Scalar *tile, const LeftOperand &lhs, const LhsScratch<kBlockM> &scratch, int token,
                              int token_end, int column) {
  constexpr int kVec4PerRow = kBlockK / 4, kStep = kThreads / kVec4PerRow,
                kLoadsInFlight = kTileLoadsInFlight<kWhole, kBlockM, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kVec4PerRow * 4, j = column + c;
  const int count = j < lhs.columns ? min(token_end - token, kBlockM) : 0;
  const T *hidden = static_cast<const T *>(lhs.hidden.data) + token * lhs.hidden.pitch;
  const bool by_token = lhs.token_weights.per_token && !lhs.one_hot;
  const auto weight = [&](int t, int e) {
    const int64_t group = by_token ? token + t : scratch.group[t];
    return lhs.one_hot ? (e == group ? 1.0f : 0.0f) : lhs.token_weights.weights[group * lhs.token_weights.experts + e];
  };
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < kBlockM; first += kLoadsInFlight * kStep) {
    if constexpr (kWhole) {
      Vec4<T> raw[kLoadsInFlight] = {};
      float w[kLoadsInFlight] = {};
      if (count > 0) {
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) {
          const int t = min(first + n * kStep, count - 1);
          raw[n] = load_raw<true>(hidden + t * lhs.hidden.pitch + j % lhs.rank, 4);
          w[n] = weight(t, j / lhs.rank);
        }
      }
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        float value[4];
        convert<T>(raw[n], value);
#pragma unroll
        for (int v = 0; v < 4; ++v) value[v] = first + n * kStep < count ? value[v] * w[n] : 0.0f;
        store_tile(tile + place<Scalar, kBlockK>(first + n * kStep, c), value);
      }
    } else {
      float value[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int e = (j + v) / lhs.rank, k = (j + v) % lhs.rank;
        value[v] = 0;
        if (first < count && j + v < lhs.columns)
          value[v] = weight(first, e) * to_float(hidden[first * lhs.hidden.pitch + k]);
      }
      store_tile(tile + place<Scalar, kBlockK>(first, c), value);
    }
  }
}

// Fills a kBlockM x kBlockK tile with columns [column, ...) of the operand; elements outside are zero. Copies of h are
// asynchronous.
template <typename Scalar, int kBlockM, int kBlockK>
__device__ inline void stage_lhs(Scalar *tile, const LeftOperand &lhs, const LhsScratch<kBlockM> &scratch, int token,
                                 int token_end, int column) {
  if (lhs.kind == LeftOperandKind::kHidden) {
    stage_activations<Scalar, kBlockM, kBlockK>(tile, lhs.hidden, {token, token_end, column, lhs.columns});
    return;
  }
  if (lhs.one_hot || !lhs.token_weights.per_token) {
    for (int t = threadIdx.x; t < kBlockM; t += kThreads) scratch.group[t] = lhs.token_weights.groups.of(token + t);
    __syncthreads();
  }
  with_activation_type<Scalar>(lhs.hidden.dtype, [&](auto tag) {
    with_whole(lhs.rank % 4 == 0 && has_vec4(lhs.hidden), [&](auto whole) {
      form_u<Scalar, decltype(tag), decltype(whole)::value, kBlockM, kBlockK>(tile, lhs, scratch, token, token_end,
                                                                              column);
    });
  });
}

// Like stage_lhs, for kDHidden.
template <typename Scalar, int kBlockM, int kBlockK>
__device__ inline void stage_d_hidden(Scalar *tile, const LeftOperand &lhs, const LhsScratch<kBlockM> &scratch,
                                      int token, int token_end, int column) {
  if (lhs.router.logit_gradient != LogitGradient::kNone) form_d_logits(lhs.router, scratch, token, token_end);
  const int k = column + static_cast<int>(threadIdx.x) % (kBlockK / 4) * 4;
  with_whole(has_vec4_d_hidden(lhs, k), [&](auto whole) {
    form_d_hidden<Scalar, decltype(whole)::value, kBlockM, kBlockK>(tile, lhs, scratch, token, token_end, column);
  });
}

}  // namespace lily::cuda
