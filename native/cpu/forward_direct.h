// Shrink and expand of batch routing with at most kDirectTokens tokens.
//
//   h_ti = <A_i, x_t>, before phi             Tasks: tiles of r
//   y_t (+)= s sum_e w_e sum_i h_ti B_ei      Tasks: tiles of d_out
//
// With so few tokens, packing A and C would be most of the work. Here A and B are read once, in long runs of their
// rows, and the sums of y stay in the L1 cache. Rows of h and y have another rounding than in a larger batch; with
// batch routing y depends on the batch anyway.
#pragma once

#include "cpu/forward_route.h"
#include "cpu/pack.h"

namespace lily::cpu {
namespace {

// Floats for a copy of x, or for the sums and a copy of h.
int64_t direct_forward_scratch(const ForwardPass &pass) {
  const int64_t expand = round_up(pass.expand.columns.width, kLanes) + round_up(pass.stack.rank, kLanes);
  return maximum(kDirectTokens * maximum(expand, round_up(pass.call->problem.d_in, kLanes)), route_scratch(pass));
}

// products[k][t] = <row k of `in`, vector t> for `rows` <= kDirectRows rows, whose sums stay in registers.
template <int kTokens, typename E>
LILY_INLINE void multiply_direct(const E *in, int64_t in_pitch, int64_t rows, int64_t columns, const float *vectors,
                                 int64_t pitch, float (&products)[kDirectRows][kDirectTokens]) {
  const E *row[kDirectRows];
  for (int64_t k = 0; k < kDirectRows; ++k) row[k] = in + minimum(k, rows - 1) * in_pitch;
  Vector sums[kDirectRows][kTokens + 1] = {};
  for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int k = 0; k < kDirectRows; ++k) {
      const Vector values = load_up_to(row[k] + j, count);
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) sums[k][t] += values * load_up_to(vectors + t * pitch + j, count);
    }
  });
  for (int k = 0; k < kDirectRows; ++k) {
    for (int t = 0; t < kTokens; ++t) products[k][t] = sum_lanes(sums[k][t]);
  }
}

// sums[t] += sum over `rows` <= kDirectRows rows k of B of factors[k][t] row k.
template <int kTokens, typename E>
LILY_INLINE void add_direct_rows(const E *b, int64_t b_pitch, int64_t rows, int64_t columns,
                                 const float (&factors)[kDirectRows][kDirectTokens], float *sums, int64_t pitch) {
  const E *row[kDirectRows];
  for (int64_t k = 0; k < kDirectRows; ++k) row[k] = b + minimum(k, rows - 1) * b_pitch;
  for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
    Vector sum[kTokens];
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t) sum[t] = load(sums + t * pitch + j);
#pragma GCC unroll 4
    for (int k = 0; k < kDirectRows; ++k) {
      const Vector values = load_up_to(row[k] + j, count);
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) sum[t] += factors[k][t] * values;
    }
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t) store(sums + t * pitch + j, sum[t]);
  });
}

// sums[t] += scale * sum over the `rows` rows i of `matrix` of values[t][i] row i.
template <int kTokens>
LILY_INLINE void add_direct_product(const lily_matrix &matrix, int64_t rows, int64_t columns, float scale,
                                    const float *values, int64_t values_pitch, float *sums, int64_t pitch) {
  with_element(matrix.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *first = static_cast<const decltype(element) *>(matrix.data);
    for (int64_t i = 0; i < rows; i += kDirectRows) {
      const int64_t count = minimum(kDirectRows, rows - i);
      float factors[kDirectRows][kDirectTokens] = {};
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t t = 0; t < kTokens; ++t) factors[k][t] = scale * values[t * values_pitch + i + k];
      }
      add_direct_rows<kTokens>(first + i * matrix.pitch, matrix.pitch, count, columns, factors, sums, pitch);
    }
  });
}

template <int kTokens>
LILY_INLINE void shrink_tokens(const ForwardPass &pass, int64_t tile, float *scratch) {
  const lily_problem &problem = pass.call->problem;
  const LeftOperand<Floats> x = lhs_of_rows<Floats>(pass.x_rows, kTokens, problem.d_in, scratch);
  with_element(pass.call->a.dtype, [&](auto element) __attribute__((always_inline)) {
    const int64_t end = pass.shrink.rank_tiles.end(tile), pitch = pass.call->a.pitch;
    for (int64_t i = pass.shrink.rank_tiles.begin(tile); i < end; i += kDirectRows) {
      const int64_t rows = minimum(kDirectRows, end - i);
      float products[kDirectRows][kDirectTokens];
      multiply_direct<kTokens>(static_cast<const decltype(element) *>(pass.call->a.data) + i * pitch, pitch, rows,
                               problem.d_in, x.data, x.row_stride, products);
      for (int64_t t = 0; t < kTokens; ++t) {
        float *const hidden = pass.hidden_partials.row(0, t) + i;
        for (int64_t k = 0; k < rows; ++k) hidden[k] = products[k][t];
      }
    }
  });
}

void shrink_direct(const ForwardPass &pass, int64_t tile, float *scratch) {
  if (pass.call->problem.tokens == 1) return shrink_tokens<1>(pass, tile, scratch);
  shrink_tokens<2>(pass, tile, scratch);
}

template <int kTokens>
LILY_INLINE void expand_tokens(const ForwardPass &pass, int64_t tile, float *scratch) {
  const ExpertStack &stack = pass.stack;
  const int64_t begin = pass.expand.columns.begin(tile), columns = pass.expand.columns.end(tile) - begin;
  const int64_t pitch = round_up(columns, kLanes), hidden_pitch = round_up(stack.rank, kLanes);
  float *const sums = scratch, *const hidden = sums + kTokens * pitch;
  clear(sums, kTokens * pitch);
  pack<Floats>(kTokens, stack.rank, pass.lhs, 1.0f, hidden, hidden_pitch);
  for (int64_t e = 0; e < stack.experts; ++e) {
    add_direct_product<kTokens>(submatrix(stack.b, e * stack.rank, begin), stack.rank, columns,
                                stack.scaling * stack.weights[e], hidden, hidden_pitch, sums, pitch);
  }
  write_rows(kTokens, columns, sums, pitch, 1.0f, rows_from(pass.y_rows, 0, begin), pass.call->y.accumulate != 0);
}

void expand_direct(const ForwardPass &pass, int64_t tile, float *scratch) {
  if (pass.call->problem.tokens == 1) return expand_tokens<1>(pass, tile, scratch);
  expand_tokens<2>(pass, tile, scratch);
}

}  // namespace
}  // namespace lily::cpu
