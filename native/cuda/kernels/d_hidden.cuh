// The gradient of h. Symbols as in docs/math.md.
//
//   dh_t = (q_t + sum_e dl_te R_e) phi'(h_t), times the factor of dropout
//   dl_te = p_te sum_j p_tj (dw_te - dw_tj), divided by the number of kept tokens if the probabilities are averaged
//
// It is computed once per token: the block that completes q_t or dw_t, whichever comes last, stores dh in the operand
// type and dl in float32. Later launches read dh like any other left operand (dx, dA), and dl for dR. The form of dl
// avoids cancellation where p_te is near 1.
#pragma once

#include "cuda/kernels/pool.cuh"

namespace lily::cuda {

// How the gradient reaches the logits: through each token's probabilities, or through the softmax of pooled logits.
enum class LogitGradient { kNone, kProbabilities, kLogits };

// Where dw comes from.
enum class DWeightsSource {
  kTokens,    // a row of E per token: token routing, where it is dp
  kPartials,  // E rows of `partial_count` partial sums: one pooling group
  kGroups     // a row of E per token: its share in dw of its group; backward_hidden adds them
};

struct RouterGradient {
  LogitGradient logit_gradient;
  DWeightsSource source;
  Operand router;              // E x r
  const float *probabilities;  // M x E, for kProbabilities
  const float *weights;        // G x E, for kLogits
  const float *d_weights;
  int partial_count;
  int averages;         // 1: dl is divided by the number of the group's kept tokens
  const float *kept;    // kPartials: that number; null: all tokens are kept
  const uint8_t *mask;  // may be null
  Groups groups;
  int experts;
};

struct DHidden {
  RouterGradient router;
  float factor;  // of dropout
  int rank;      // r
  int relu;
  Operand hidden;                    // M x r; only with relu
  TokensWithGradient with_gradient;  // dh of other tokens is zero
  float *d_logits;                   // M x E, out; null: dR is not required
  Output out;                        // M x r, out, rows padded with zeros; data null: dh is not required
};

// Scratch in shared memory for a tile of tokens.
template <int kBlockM>
struct DHiddenScratch {
  int *row;                           // of each token: its row of d_weights; negative: the token has no gradient
  float *d_weights;                   // one group: dw
  float *d_logits, *probs, *d_probs;  // rows of E, per token

  __device__ DHiddenScratch(float *base, int experts)
      : row(reinterpret_cast<int *>(base)),
        d_weights(base + kBlockM),
        d_logits(base + kBlockM + experts),
        probs(d_logits + kBlockM * experts),
        d_probs(probs + kBlockM * experts) {}
};

// dw and the number of kept tokens of the groups of a tile, which backward_hidden has added in shared memory.
struct GroupRows {
  const float *d_weights;  // rows of E; null: not kGroups
  const float *kept;
  const int *group;
};

// Adds the partial sums of dw. Called once per block, before the first tile. Ends with a barrier.
template <int kBlockM>
__device__ inline void prepare_router_gradient(const RouterGradient &router, const DHiddenScratch<kBlockM> &scratch) {
  if (router.logit_gradient == LogitGradient::kNone || router.source != DWeightsSource::kPartials) return;
  sum_rows(scratch.d_weights, router.d_weights, router.experts, router.partial_count);
  __syncthreads();
}

// Finds the tokens of the tile that have no gradient. Not for kGroups. The caller must synchronise.
template <int kBlockM>
__device__ inline void find_rows(const DHidden &call, const DHiddenScratch<kBlockM> &scratch, int token,
                                 int token_end) {
  for (int t = threadIdx.x; t < min(kBlockM, token_end - token); t += blockDim.x) {
    scratch.row[t] = call.with_gradient.contains(token + t) ? t : -1;
  }
}

// Computes dl of the tile's tokens, in shared memory and, if required, in global memory. Ends with a barrier.
template <int kBlockM>
__device__ inline void form_d_logits(const DHidden &call, const DHiddenScratch<kBlockM> &scratch,
                                     const GroupRows &group_rows, int token, int token_end, bool stores) {
  const RouterGradient &router = call.router;
  const int experts = router.experts, elements = min(token_end - token, kBlockM) * experts;
  const bool from_logits = router.logit_gradient == LogitGradient::kLogits;
  const bool by_token = router.source == DWeightsSource::kTokens;
  const bool staged = experts <= kMostStagedExperts && !from_logits;
  const int64_t offset = static_cast<int64_t>(token) * experts;
  if (staged) {
    for (int i = threadIdx.x; i < elements; i += blockDim.x) {
      scratch.probs[i] = router.probabilities[offset + i];
      if (by_token) scratch.d_probs[i] = router.d_weights[offset + i];
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < elements; i += blockDim.x) {
    const int t = i / experts, e = i % experts;
    const bool in_group = group_rows.d_weights != nullptr;
    const int row = in_group ? max(scratch.row[t], 0) : 0;
    float d_logit = 0;
    if (scratch.row[t] >= 0 && (router.mask == nullptr || router.mask[token + t] != 0)) {
      const float *d_weights = in_group    ? group_rows.d_weights + row * experts
                               : !by_token ? scratch.d_weights
                               : staged    ? scratch.d_probs + t * experts
                                           : router.d_weights + offset + t * experts;
      const float *p = from_logits
                           ? router.weights + (in_group ? static_cast<int64_t>(group_rows.group[row]) : 0) * experts
                       : staged ? scratch.probs + t * experts
                                : router.probabilities + offset + t * experts;
      for (int j = 0; j < experts; ++j) d_logit = fmaf(p[j], d_weights[e] - d_weights[j], d_logit);
      d_logit *= p[e];
      if (router.averages)
        d_logit /= in_group                 ? group_rows.kept[row]
                   : router.kept != nullptr ? router.kept[0]
                                            : static_cast<float>(router.groups.tokens);
    }
    scratch.d_logits[i] = d_logit;
    if (stores && call.d_logits != nullptr) call.d_logits[offset + i] = d_logit;
  }
  __syncthreads();
}

// The rows of a tile that a thread has in flight: first, first + step, and so on. The tile has `count` tokens.
struct RowsInFlight {
  int first, step, count;
};

// Completes dh from q in place: elements k .. k + 3 of the rows of a tile that begins with `token`. Rows beyond the
// last token are left as they are. Requires dl.
template <typename Engine, bool kWhole, int kBlockM, int kLoadsInFlight>
__device__ inline void finish_d_hidden(const DHidden &call, const DHiddenScratch<kBlockM> &scratch, int token,
                                       const RowsInFlight &rows, int k, float (&value)[kLoadsInFlight][4]) {
  const RouterGradient &router = call.router;
  const int t = rows.first, step = rows.step, at = token + rows.first, token_end = token + rows.count;
  if (router.logit_gradient != LogitGradient::kNone) {
    constexpr int kExpertsInFlight = kWhole ? 4 : 1;
#pragma unroll 1
    for (int first = 0; first < router.experts; first += kExpertsInFlight) {
      float r[kExpertsInFlight][4];
      load_vectors<kWhole>(
          typename Engine::Parameters{}, router.router, k, call.rank - k,
          [&](int i) { return min(first + i, router.experts - 1); }, r);
#pragma unroll
      for (int i = 0; i < kExpertsInFlight; ++i) {
        const int e = min(first + i, router.experts - 1);
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) {
          const bool adds = first + i < router.experts && at + n * step < token_end;
          const float d_logit = adds ? scratch.d_logits[(t + n * step) * router.experts + e] : 0.0f;
#pragma unroll
          for (int v = 0; v < 4; ++v) value[n][v] = adds ? fmaf(d_logit, r[i][v], value[n][v]) : value[n][v];
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kLoadsInFlight; ++n)
#pragma unroll
    for (int v = 0; v < 4; ++v) value[n][v] *= call.factor;
  if (call.relu) {
    float h[kLoadsInFlight][4];
    load_vectors<kWhole>(
        typename Engine::Activations{}, call.hidden, k, call.rank - k,
        [&](int n) { return min(at + n * step, token_end - 1); }, h);
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n)
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (h[n][v] <= 0) value[n][v] = 0;  // keeps a NaN
  }
  if (call.with_gradient.leave_out()) {
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      if (at + n * step < token_end && scratch.row[t + n * step] >= 0) continue;
#pragma unroll
      for (int v = 0; v < 4; ++v) value[n][v] = 0;
    }
  }
}

// Elements k .. k + 3 of q of some rows from a product in shared memory. Rows beyond the last token repeat its row.
template <int kPitch, int kLoadsInFlight>
__device__ inline void load_product(const float *product, float scale, const RowsInFlight &rows,
                                    float (&value)[kLoadsInFlight][4]) {
#pragma unroll
  for (int n = 0; n < kLoadsInFlight; ++n) {
    load_vec4(product + min(rows.first + n * rows.step, rows.count - 1) * kPitch, 4, true, value[n]);
#pragma unroll
    for (int v = 0; v < 4; ++v) value[n][v] *= scale;
  }
}

// Partial sums of q, to be added in order.
struct QPartials {
  const float *data;  // the elements of the tile's first row
  int64_t stride;     // from one partial sum to the next
  int count, pitch;
};

// Likewise from global memory. `valid` of the four elements of a row belong to q.
template <bool kWhole, int kLoadsInFlight>
__device__ inline void load_q(const QPartials &q, int valid, float scale, const RowsInFlight &rows,
                              float (&value)[kLoadsInFlight][4]) {
  constexpr int kPartialsInFlight = kWhole ? 4 : 1;
#pragma unroll
  for (int n = 0; n < kLoadsInFlight; ++n)
#pragma unroll
    for (int v = 0; v < 4; ++v) value[n][v] = 0;
#pragma unroll 1
  for (int first = 0; first < q.count; first += kPartialsInFlight) {
    float4 raw[kPartialsInFlight][kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kPartialsInFlight; ++i) {
      const float *from = q.data + min(first + i, q.count - 1) * q.stride;
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n)
        raw[i][n] = load_raw<kWhole>(from + min(rows.first + n * rows.step, rows.count - 1) * q.pitch, valid);
    }
#pragma unroll
    for (int i = 0; i < kPartialsInFlight; ++i)
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        float partial[4];
        convert<float>(raw[i][n], partial);
#pragma unroll
        for (int v = 0; v < 4; ++v) value[n][v] = first + i < q.count ? value[n][v] + partial[v] : value[n][v];
      }
  }
#pragma unroll
  for (int n = 0; n < kLoadsInFlight; ++n)
#pragma unroll
    for (int v = 0; v < 4; ++v) value[n][v] *= scale;
}

// The lanes of a row of r elements, and of the zeros that follow it, in store_d_hidden.
__device__ inline int d_hidden_lanes(int rank) {
  int lanes = 2;
  while (4 * lanes < rank && lanes < kThreads) lanes *= 2;
  return lanes;
}

// Stores dh of columns [column, column_end) of a tile's tokens, and after the last column zeros. load_rows(whole, rows,
// k, value) loads elements k .. k + 3 of q of the RowsInFlight; those beyond the last token may have any value.
// Requires dl and scratch.row. `lanes` threads, a power of two, load a row.
template <typename Engine, int kBlockThreads = kThreads, int kBlockM, typename LoadRows>
__device__ inline void store_d_hidden(const DHidden &call, const DHiddenScratch<kBlockM> &scratch, int token,
                                      int token_end, int column, int column_end, int lanes, const LoadRows &load_rows) {
  const int k = column + static_cast<int>(threadIdx.x) % lanes * 4, step = kBlockThreads / lanes;
  const int count = k < padded_end(call.out, column_end, call.rank) ? min(token_end - token, kBlockM) : 0;
  const bool whole = call.rank - k >= 4 &&
                     (call.router.logit_gradient == LogitGradient::kNone || has_vec4(call.router.router)) &&
                     (!call.relu || has_vec4(call.hidden));
  with_whole(whole, [&](auto is_whole) {
    constexpr bool kWhole = decltype(is_whole)::value;
    constexpr int kLoadsInFlight = kWhole ? 4 : 1;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) / lanes; first < count; first += kLoadsInFlight * step) {
      float value[kLoadsInFlight][4];
      const RowsInFlight rows = {first, step, count};
      load_rows(is_whole, rows, k, value);
      finish_d_hidden<Engine, kWhole>(call, scratch, token, rows, k, value);
      if constexpr (!kWhole) clear_beyond(value[0], call.rank - k);
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n)
        if (first + n * step < count)
          store_vec4(typename Engine::Activations{}, call.out, token + first + n * step, k, call.out.pitch, value[n]);
    }
  });
}

}  // namespace lily::cuda
