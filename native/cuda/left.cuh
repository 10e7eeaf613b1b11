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

// From q to dh: elements k .. k + 3 of row t of the tile, which is token `at`; dl is formed.
template <int kTokens>
__device__ inline void finish_gradient(const Left &left, const LeftScratch<kTokens> &scratch, int t, int at, int k,
                                       float (&value)[4]) {
  const RouterGradient &router = left.router;
  if (router.loss != RouterLoss::kNone) {
    for (int e = 0; e < router.experts; ++e) {
      float r[4];
      load_four(router.router, e, k, left.rank, r);
      const float loss = scratch.logit_loss[t * router.experts + e];
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] = fmaf(loss, r[v], value[v]);
    }
  }
  if (left.relu) {
    float h[4];
    load_four(left.hidden, at, k, left.rank, h);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (!(h[v] > 0)) value[v] = 0;
  }
}

// Fills a kTokens x kColumns tile with columns [column, ...) of the operand's rows; zeros outside. Copies of hidden
// are asynchronous.
template <typename Scalar, int kTokens, int kColumns>
__device__ inline void stage_left(Scalar *tile, const Left &left, const LeftScratch<kTokens> &scratch, int token,
                                  int token_end, int column) {
  constexpr int kFours = kColumns / 4;
  if (left.kind == LeftKind::kHidden) {
    stage<Scalar, kTokens, kColumns>(tile, left.hidden, {token, token_end, column, left.columns});
    return;
  }
  if (left.kind == LeftKind::kMixed) {
    const bool needs_group = left.one_hot || !left.mixture.per_token;
    if (needs_group) {
      for (int t = threadIdx.x; t < kTokens; t += kThreads) scratch.group[t] = left.mixture.groups.of(token + t);
      __syncthreads();
    }
    for (int i = threadIdx.x; i < kTokens * kFours; i += kThreads) {
      const int t = i / kFours, c = i % kFours * 4, j = column + c, at = token + t;
      float value[4] = {0, 0, 0, 0};
      if (at < token_end && j < left.columns) {
        const int64_t group = needs_group ? scratch.group[t] : at;
        const float *weights = left.mixture.weights + group * left.mixture.experts;
        const auto weight = [&](int e) { return left.one_hot ? (e == group ? 1.0f : 0.0f) : weights[e]; };
        if (left.rank % 4 == 0) {
          load_four(left.hidden, at, j % left.rank, left.rank, value);
          const float w = weight(j / left.rank);
#pragma unroll
          for (int v = 0; v < 4; ++v) value[v] *= w;
        } else {
#pragma unroll
          for (int v = 0; v < 4; ++v)
            if (j + v < left.columns)
              value[v] = weight((j + v) / left.rank) * load_one(left.hidden, at, (j + v) % left.rank);
        }
      }
      store_four(tile + place<Scalar, kColumns>(t, c), 4, true, value);
    }
    return;
  }
  const RouterGradient &router = left.router;
  if (router.loss != RouterLoss::kNone) form_logit_loss(router, scratch, token, token_end);
  for (int i = threadIdx.x; i < kTokens * kFours; i += kThreads) {
    const int t = i / kFours, c = i % kFours * 4, k = column + c, at = token + t;
    float value[4] = {0, 0, 0, 0};
    if (at < token_end && k < left.rank) {
      load_four(left.q + static_cast<int64_t>(at) * left.q_pitch + k, left.rank - k, true, value);
      finish_gradient(left, scratch, t, at, k, value);
    }
    store_four(tile + place<Scalar, kColumns>(t, c), 4, true, value);
  }
}

}  // namespace lily::cuda
