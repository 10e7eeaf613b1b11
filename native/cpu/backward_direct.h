// The dy pass and the x pass of batch routing with at most kDirectTokens tokens.
//
//   v_te  = B_e dy_t                                              Tasks: splits of d_out
//   q_t   = s sum_e w_e v_te
//   dw_e  = s sum_t <h_t, v_te>
//   dB_e (+)= s w_e sum_t h_t dy_t^T, or deferred_db
//
//   dx_t (+)= sum_i dh_ti A_i                                     Tasks: tiles of d_in
//   dA_i (+)= sum_t dh_ti x_t
//
// With so few tokens, packing A and forming C and D would be most of the work. Here A and B are read once, dA and dB
// are read and written once, and nothing else is as large. Operands and results are as in backward_dy.h and
// backward_x.h, but d_weights.partials has one sum per split. A row of q has another rounding than in a larger batch;
// with batch routing it depends on the batch anyway.
#pragma once

#include "cpu/backward_router.h"
#include "cpu/forward_direct.h"

namespace lily::cpu {
namespace {

// Floats for the columns of dy of one split, and h; or for the sums of dx and the columns of x.
int64_t direct_backward_scratch(const BackwardPass &pass) {
  const int64_t dy = round_up(pass.dy.splits.width, kLanes) + round_up(pass.stack.rank, kLanes);
  const int64_t x = 2 * round_up(pass.x.tiles.width, kLanes);
  return maximum(kDirectTokens * maximum(dy, x), d_router_scratch(pass));
}

// q and dw of the columns of a split.
template <int kTokens>
LILY_INLINE void direct_products(const BackwardPass &pass, int64_t split, const float *dy, int64_t pitch,
                                 const float *hidden, int64_t hidden_pitch) {
  const ExpertStack &stack = pass.stack;
  const int64_t begin = pass.dy.splits.begin(split), columns = pass.dy.splits.end(split) - begin;
  float *const q = pass.q_partials.row(split, 0);
  clear(q, kTokens * pass.q_partials.pitch);
  with_element(stack.b.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *b = static_cast<const decltype(element) *>(stack.b.data) + begin;
    for (int64_t e = 0; e < stack.experts; ++e) {
      const float weight = stack.scaling * stack.weights[e];
      double d_weight = 0.0;
      for (int64_t i = 0; i < stack.rank; i += kDirectRows) {
        const int64_t rows = minimum(kDirectRows, stack.rank - i);
        float products[kDirectRows][kDirectTokens];
        multiply_direct<kTokens>(b + (e * stack.rank + i) * stack.b.pitch, stack.b.pitch, rows, columns, dy, pitch,
                                 products);
        for (int64_t k = 0; k < rows; ++k) {
          for (int64_t t = 0; t < kTokens; ++t) {
            q[t * pass.q_partials.pitch + i + k] += weight * products[k][t];
            d_weight += static_cast<double>(hidden[t * hidden_pitch + i + k]) * static_cast<double>(products[k][t]);
          }
        }
      }
      if (pass.needs_d_weights) pass.d_weights.partials[split * stack.experts + e] = stack.scaling * d_weight;
    }
  });
}

// out[i][j] (+)= scale * sum_t hidden[t][i] dy[t][j].
template <int kTokens>
LILY_INLINE void add_direct_outer(int64_t rows, int64_t columns, float scale, const float *hidden, int64_t hidden_pitch,
                                  const float *dy, int64_t pitch, const lily_matrix &out) {
  const bool accumulate = out.accumulate != 0;
  with_element(out.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    for (int64_t i = 0; i < rows; ++i) {
      E *const to = static_cast<E *>(out.data) + i * out.pitch;
      float factors[kTokens + 1];
      for (int t = 0; t < kTokens; ++t) factors[t] = scale * hidden[t * hidden_pitch + i];
      const auto sum_of = [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        Vector sum = accumulate ? load_up_to(to + j, count) : Vector{};
#pragma GCC unroll 2
        for (int t = 0; t < kTokens; ++t) sum += factors[t] * load(dy + t * pitch + j);
        return sum;
      };
      // Numbers of 16 bits are stored two vectors at a time. For float32 that would take longer.
      const int64_t paired = sizeof(E) < sizeof(float) ? columns / (2 * kLanes) * (2 * kLanes) : 0;
      for (int64_t j = 0; j < paired; j += 2 * kLanes) {
        store_two(to + j, sum_of(j, kLanes), sum_of(j + kLanes, kLanes));
      }
      for_vectors(columns - paired, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        store_up_to(to + paired + j, sum_of(paired + j, count), count);
      });
    }
  });
}

template <int kTokens>
LILY_INLINE void direct_tokens(const BackwardPass &pass, int64_t split, float *scratch) {
  const ExpertStack &stack = pass.stack;
  const int64_t begin = pass.dy.splits.begin(split), columns = pass.dy.splits.end(split) - begin;
  const int64_t pitch = round_up(columns, kLanes), hidden_pitch = round_up(stack.rank, kLanes);
  float *const dy = scratch, *const hidden = dy + kTokens * pitch;
  pack<Floats>(kTokens, columns, submatrix(pass.dy_rows.matrix, 0, begin), 1.0f, dy, pitch);
  pack<Floats>(kTokens, stack.rank, pass.hidden, 1.0f, hidden, hidden_pitch);
  if (pass.needs_d_hidden) direct_products<kTokens>(pass, split, dy, pitch, hidden, hidden_pitch);
  if (!pass.needs_db) return;
  const lily_matrix target = pass.db_target();
  const bool whole = pass.defers_d();
  for (int64_t e = 0; e < (whole ? 1 : stack.experts); ++e) {
    add_direct_outer<kTokens>(stack.rank, columns, whole ? stack.scaling : stack.scaling * stack.weights[e], hidden,
                              hidden_pitch, dy, pitch, submatrix(target, e * stack.rank, begin));
  }
}

void dy_pass_direct(const BackwardPass &pass, int64_t split, float *scratch) {
  // Without a kept token q and D are zero, and dy and h are not read, because they may be NaN.
  if (pass.has_gradient != nullptr) {
    direct_tokens<0>(pass, split, scratch);
    float *const q = pass.q_partials.row(split, 0);
    if (pass.needs_d_hidden) clear(q, pass.call->problem.tokens * pass.q_partials.pitch);
    return;
  }
  if (pass.call->problem.tokens == 1) return direct_tokens<1>(pass, split, scratch);
  direct_tokens<2>(pass, split, scratch);
}

template <int kTokens>
LILY_INLINE void x_tokens(const BackwardPass &pass, int64_t tile, float *scratch) {
  const int64_t begin = pass.x.tiles.begin(tile), columns = pass.x.tiles.end(tile) - begin;
  const int64_t rank = pass.call->problem.rank, pitch = round_up(columns, kLanes);
  const lily_matrix &a = pass.call->a, &dx = pass.call->dx, &da = pass.call->da;
  if (dx.data != nullptr) {
    float *const sums = scratch;
    clear(sums, kTokens * pitch);
    add_direct_product<kTokens>(submatrix(a, 0, begin), rank, columns, 1.0f, pass.d_hidden, pass.rank_pitch, sums,
                                pitch);
    write_rows(kTokens, columns, sums, pitch, 1.0f, rows_from(pass.dx_rows, 0, begin), dx.accumulate != 0);
  }
  if (da.data == nullptr) return;
  if (pass.has_gradient != nullptr) {
    add_direct_outer<0>(rank, columns, 1.0f, pass.d_hidden, pass.rank_pitch, nullptr, 0, submatrix(da, 0, begin));
    return;
  }
  float *const x = scratch + kDirectTokens * pitch;
  pack<Floats>(kTokens, columns, submatrix(pass.x_rows.matrix, 0, begin), 1.0f, x, pitch);
  add_direct_outer<kTokens>(rank, columns, 1.0f, pass.d_hidden, pass.rank_pitch, x, pitch, submatrix(da, 0, begin));
}

void x_pass_direct(const BackwardPass &pass, int64_t tile, float *scratch) {
  if (pass.call->problem.tokens == 1) return x_tokens<1>(pass, tile, scratch);
  x_tokens<2>(pass, tile, scratch);
}

constexpr DirectProducts kDirectProducts = {
    .forward_scratch = direct_forward_scratch,
    .backward_scratch = direct_backward_scratch,
    .shrink = shrink_direct,
    .expand = expand_direct,
    .dy_pass = dy_pass_direct,
    .x_pass = x_pass_direct,
};

}  // namespace
}  // namespace lily::cpu
