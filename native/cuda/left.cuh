// The left operand of the products that run over a strip of columns: for each token a short row, either stored (h), or
// formed as it is loaded.
//
//   hidden    h_t                                    pooled routing forward, D = h^T dy
//   mixed     u_t[e r + k] = w_te h_t[k]             every token its own mixture: no combined HP is ever formed
//   gradient  dh_t = (q_t + sum_e dl_te R_e) phi'    never stored
//
// with dl_t = p_t * (dp_t - <p_t, dp_t>), written as p_te sum_j p_tj (dp_te - dp_tj): nothing cancels where p_te is
// near 1.
#pragma once

#include "mixture.cuh"

namespace lily::cuda {

// How the loss reaches the router's logits.
enum class RouterLoss { kNone, kProbabilities, kLogits };

struct RouterGradient {
  RouterLoss loss;
  Operand router;              // E x r
  const float *probabilities;  // M x E, of kProbabilities
  const float *weights;        // G x E, of kLogits
  // dw: rows of E. One per token (token routing, where dp is meant); one per group; or, for one group, E rows of
  // `parts` numbers to be added.
  const float *expert_loss;
  int per_token, parts;
  const float *kept;    // G: kept tokens of each group; may be null
  float kept_constant;  // without `kept`: what to divide by
  const uint8_t *mask;  // may be null
  Groups groups;
  int experts;
};

enum class LeftKind { kHidden, kMixed, kGradient };

struct Left {
  LeftKind kind;
  Operand hidden;  // M x r; of the gradient only with relu
  int rank;        // r
  int columns;     // of the operand: r, or E r
  Mixture mixture;
  int one_hot;     // mixed: weight 1 for the token's group, 0 for others, so that products are apart by group
  const float *q;  // M x padded r
  int q_pitch;
  int relu;
  RouterGradient router;
};

// Rows of more experts than these lie in lines of their own: reading them by element wastes nothing.
constexpr int kMostStagedExperts = 8;

// Floats of shared memory that forming needs.
__host__ __device__ inline int left_scratch(int tokens, int experts) {
  return tokens + tokens * experts * (experts <= kMostStagedExperts ? 3 : 1) + experts;
}

// The group of each token, dl, what dl is made of, and the experts' loss of the one group.
template <int kTokens>
struct LeftScratch {
  int *group;
  float *expert_loss;
  float *logit_loss, *probability, *token_loss;  // rows of E

  __device__ LeftScratch(float *base, int experts)
      : group(reinterpret_cast<int *>(base)),
        expert_loss(base + kTokens),
        logit_loss(base + kTokens + experts),
        probability(logit_loss + kTokens * experts),
        token_loss(probability + kTokens * experts) {}
};

// Once per block, before the first tile.
template <int kTokens>
__device__ inline void prepare_router_gradient(const RouterGradient &router, const LeftScratch<kTokens> &scratch) {
  if (router.loss != RouterLoss::kNone && router.parts > 0)
    sum_rows(scratch.expert_loss, router.expert_loss, router.experts, router.parts);
  __syncthreads();
}

// dl of the tile's tokens; ends with a barrier.
template <int kTokens>
__device__ inline void form_logit_loss(const RouterGradient &router, const LeftScratch<kTokens> &scratch, int token,
                                       int token_end) {
  const int experts = router.experts;
  const bool from_logits = router.loss == RouterLoss::kLogits;
  const bool staged = experts <= kMostStagedExperts && !from_logits;
  if (staged) {
    const int64_t first = static_cast<int64_t>(token) * experts;
    for (int i = threadIdx.x; i < (token_end - token) * experts && i < kTokens * experts; i += kThreads) {
      scratch.probability[i] = router.probabilities[first + i];
      if (router.per_token) scratch.token_loss[i] = router.expert_loss[first + i];
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kTokens * experts; i += kThreads) {
    const int t = i / experts, e = i % experts, at = token + t;
    float loss = 0;
    const bool keeps = at < token_end && (router.mask == nullptr || router.mask[at] != 0);
    if (keeps) {
      const int group = router.per_token ? at : router.groups.of(at);
      const int64_t row = static_cast<int64_t>(group) * experts;
      const float *expert_loss = router.parts > 0             ? scratch.expert_loss
                                 : staged && router.per_token ? scratch.token_loss + t * experts
                                                              : router.expert_loss + row;
      const float *p = from_logits ? router.weights + row
                       : staged    ? scratch.probability + t * experts
                                   : router.probabilities + static_cast<int64_t>(at) * experts;
      for (int j = 0; j < experts; ++j) loss = fmaf(p[j], expert_loss[e] - expert_loss[j], loss);
      loss *= p[e];
      loss /= router.kept != nullptr ? router.kept[group] : router.kept_constant;
    }
    scratch.logit_loss[t * experts + e] = loss;
  }
  __syncthreads();
}

// Four columns from k on can be loaded whole from R and from h, as far as dh needs them.
__device__ inline bool has_whole_gradient(const Left &left, int k) {
  return left.rank - k >= 4 && (left.router.loss == RouterLoss::kNone || has_fours(left.router.router)) &&
         (!left.relu || has_fours(left.hidden));
}

// From q to dh, of kCount rows of the tile: elements k .. k + 3 of row t, which is token `at`, of row t + step, and so
// on; rows of no token stay zero if they are. dl is formed.
template <typename Scalar, bool kWhole, int kTokens, int kCount>
__device__ inline void finish_gradient(const Left &left, const LeftScratch<kTokens> &scratch, int t, int step, int at,
                                       int token_end, int k, float (&value)[kCount][4]) {
  const RouterGradient &router = left.router;
  if (router.loss != RouterLoss::kNone) {
    with_type<Scalar>(router.router.dtype, [&](auto number) {
      using T = decltype(number);
      constexpr int kExperts = kWhole ? 4 : 1;
      const T *from = static_cast<const T *>(router.router.data) + k;
#pragma unroll 1
      for (int first = 0; first < router.experts; first += kExperts) {
        Four<T> four[kExperts];
#pragma unroll
        for (int i = 0; i < kExperts; ++i)
          four[i] = load_raw<kWhole>(from + min(first + i, router.experts - 1) * router.router.pitch, left.rank - k);
#pragma unroll
        for (int i = 0; i < kExperts; ++i) {
          const int e = min(first + i, router.experts - 1);
          float r[4];
          convert<T>(four[i], r);
#pragma unroll
          for (int n = 0; n < kCount; ++n) {
            const bool adds = first + i < router.experts && at + n * step < token_end;
            const float loss = scratch.logit_loss[(t + n * step) * router.experts + e];
#pragma unroll
            for (int v = 0; v < 4; ++v) value[n][v] = adds ? fmaf(loss, r[v], value[n][v]) : value[n][v];
          }
        }
      }
    });
  }
  if (left.relu) {
    with_activation_type<Scalar>(left.hidden.dtype, [&](auto number) {
      using T = decltype(number);
      const T *from = static_cast<const T *>(left.hidden.data) + k;
      Four<T> four[kCount];
#pragma unroll
      for (int n = 0; n < kCount; ++n)
        four[n] = load_raw<kWhole>(from + min(at + n * step, token_end - 1) * left.hidden.pitch, left.rank - k);
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        float h[4];
        convert<T>(four[n], h);
#pragma unroll
        for (int v = 0; v < 4; ++v)
          if (!(h[v] > 0)) value[n][v] = 0;
      }
    });
  }
}

// A tile of dh; dl is formed.
template <typename Scalar, bool kWhole, int kTokens, int kColumns>
__device__ inline void form_gradient(Scalar *tile, const Left &left, const LeftScratch<kTokens> &scratch, int token,
                                     int token_end, int column) {
  constexpr int kFours = kColumns / 4, kStep = kThreads / kFours, kCount = kLoads<kWhole, kTokens, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kFours * 4, k = column + c;
  const int count = k < left.rank ? min(token_end - token, kTokens) : 0;
  const float *q = left.q + token * static_cast<int64_t>(left.q_pitch) + k;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kFours; first < kTokens; first += kCount * kStep) {
    float4 four[kCount] = {};
    if (count > 0) {
#pragma unroll
      for (int n = 0; n < kCount; ++n)
        four[n] =
            load_raw<kWhole>(q + min(first + n * kStep, count - 1) * static_cast<int64_t>(left.q_pitch), left.rank - k);
    }
    float value[kCount][4];
#pragma unroll
    for (int n = 0; n < kCount; ++n) convert<float>(first + n * kStep < count ? four[n] : float4{}, value[n]);
    if (count > 0) finish_gradient<Scalar, kWhole>(left, scratch, first, kStep, token + first, token_end, k, value);
#pragma unroll
    for (int n = 0; n < kCount; ++n) store_tile(tile + place<Scalar, kColumns>(first + n * kStep, c), value[n]);
  }
}

// A tile of u; h's numbers are T. With kWhole r is a multiple of 4 and rows of h begin at multiples of four numbers.
template <typename Scalar, typename T, bool kWhole, int kTokens, int kColumns>
__device__ inline void form_mixed(Scalar *tile, const Left &left, const LeftScratch<kTokens> &scratch, int token,
                                  int token_end, int column) {
  constexpr int kFours = kColumns / 4, kStep = kThreads / kFours, kCount = kLoads<kWhole, kTokens, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kFours * 4, j = column + c;
  const int count = j < left.columns ? min(token_end - token, kTokens) : 0;
  const T *hidden = static_cast<const T *>(left.hidden.data) + token * left.hidden.pitch;
  const bool by_token = left.mixture.per_token && !left.one_hot;
  const auto weight = [&](int t, int e) {
    const int64_t group = by_token ? token + t : scratch.group[t];
    return left.one_hot ? (e == group ? 1.0f : 0.0f) : left.mixture.weights[group * left.mixture.experts + e];
  };
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kFours; first < kTokens; first += kCount * kStep) {
    if constexpr (kWhole) {
      Four<T> four[kCount] = {};
      float w[kCount] = {};
      if (count > 0) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
          const int t = min(first + n * kStep, count - 1);
          four[n] = load_raw<true>(hidden + t * left.hidden.pitch + j % left.rank, 4);
          w[n] = weight(t, j / left.rank);
        }
      }
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        float value[4];
        convert<T>(four[n], value);
#pragma unroll
        for (int v = 0; v < 4; ++v) value[v] = first + n * kStep < count ? value[v] * w[n] : 0.0f;
        store_tile(tile + place<Scalar, kColumns>(first + n * kStep, c), value);
      }
    } else {
      float value[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int e = (j + v) / left.rank, k = (j + v) % left.rank;
        value[v] = 0;
        if (first < count && j + v < left.columns)
          value[v] = weight(first, e) * to_float(hidden[first * left.hidden.pitch + k]);
      }
      store_tile(tile + place<Scalar, kColumns>(first, c), value);
    }
  }
}

// Fills a kTokens x kColumns tile with columns [column, ...) of the operand's rows; zeros outside. Copies of hidden
// are asynchronous.
template <typename Scalar, int kTokens, int kColumns>
__device__ inline void stage_left(Scalar *tile, const Left &left, const LeftScratch<kTokens> &scratch, int token,
                                  int token_end, int column) {
  if (left.kind == LeftKind::kHidden) {
    stage_activations<Scalar, kTokens, kColumns>(tile, left.hidden, {token, token_end, column, left.columns});
    return;
  }
  if (left.one_hot || !left.mixture.per_token) {
    for (int t = threadIdx.x; t < kTokens; t += kThreads) scratch.group[t] = left.mixture.groups.of(token + t);
    __syncthreads();
  }
  with_activation_type<Scalar>(left.hidden.dtype, [&](auto number) {
    with_whole(left.rank % 4 == 0 && has_fours(left.hidden), [&](auto whole) {
      form_mixed<Scalar, decltype(number), decltype(whole)::value, kTokens, kColumns>(tile, left, scratch, token,
                                                                                      token_end, column);
    });
  });
}

// The same of dh, kGradient.
template <typename Scalar, int kTokens, int kColumns>
__device__ inline void stage_gradient(Scalar *tile, const Left &left, const LeftScratch<kTokens> &scratch, int token,
                                      int token_end, int column) {
  if (left.router.loss != RouterLoss::kNone) form_logit_loss(left.router, scratch, token, token_end);
  const int k = column + static_cast<int>(threadIdx.x) % (kColumns / 4) * 4;
  with_whole(has_whole_gradient(left, k), [&](auto whole) {
    form_gradient<Scalar, decltype(whole)::value, kTokens, kColumns>(tile, left, scratch, token, token_end, column);
  });
}

}  // namespace lily::cuda
