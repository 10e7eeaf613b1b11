// Shrink and expand of the register tile for at most kFewTokens tokens, where packing A and C would take longer than
// multiplying them. Operands, results and tasks are as in forward_shrink.h and forward_expand.h, with the same bits:
// each element is the chain, or the two chains, of the register tile. A row therefore does not depend on the number of
// rows that are computed with it.
//
//   h, and y of LoRA   squares of kLanes rows of A or b by kLanes steps of k are transposed in registers and used there
//   y of Lily          kFewSteps steps of C at a time are combined in registers and added to the sums of all tokens,
//                      which stay in the L1 cache
//
// A and B are read once, in place.
#pragma once

#include "cpu/expert_stack.h"

namespace lily::cpu {
namespace {

// Steps of C that are combined together: four rows of each B_e (eight of pairs) are about as many streams as the
// hardware prefetcher follows.
constexpr int64_t kFewSteps = 4;

// Columns of y whose sums stay in the L1 cache: 2 KiB for each token.
constexpr int64_t kFewColumns = 512;

// The rows of a left operand.
struct FewRows {
  const Operand::Element *row[kFewTokens];
};

// The rows of tokens. Those that cannot be read in place are copied to `scratch` as in lhs_of_rows.
LILY_INLINE FewRows few_rows(const TokenRows &in, int64_t tokens, int64_t depth, float *scratch) {
  FewRows rows;
  for (int64_t t = 0; t < tokens; ++t) {
    float *const copy = scratch + t * round_up(depth, kLanes);
    rows.row[t] = lhs_of_rows<Operand>(submatrix(in.matrix, in.of(t), 0), 1, depth, copy).data;
  }
  return rows;
}

// Four neighbouring numbers of each of kLanes / 4 rows that are 4 pitch apart. Insertions from memory do not need the
// only port for shuffles.
LILY_INLINE Vector load_quads(const float *first, [[maybe_unused]] int64_t pitch) {
#if LILY_VECTOR_BYTES == 64
  __m512 quads = _mm512_castps128_ps512(_mm_loadu_ps(first));
  quads = _mm512_insertf32x4(quads, _mm_loadu_ps(first + 4 * pitch), 1);
  quads = _mm512_insertf32x4(quads, _mm_loadu_ps(first + 8 * pitch), 2);
  return (Vector)_mm512_insertf32x4(quads, _mm_loadu_ps(first + 12 * pitch), 3);
#elif LILY_VECTOR_BYTES == 32
  const __m256 quads = _mm256_castps128_ps256(_mm_loadu_ps(first));
  return (Vector)_mm256_insertf128_ps(quads, _mm_loadu_ps(first + 4 * pitch), 1);
#else
  return load(first);
#endif
}

// Tokens whose sums stay in registers.
constexpr int64_t kSquareTokens = LILY_VECTOR_REGISTERS == 32 ? 8 : 4;

// Quads of a row that are loaded one after the other. If the pitch is a power of two, all rows of A map to the same set
// of the L1 cache, which does not hold a line of each of them.
constexpr int64_t kSquareQuads = LILY_VECTOR_REGISTERS == 32 ? 4 : 2;

// Adds the first `count` of 4 * kQuads steps of kLanes rows, the lanes, to the sums of kTokens rows of a left operand,
// which begin at step k.
template <int64_t kQuads, bool kScales, int64_t kTokens, int64_t kChains>
LILY_INLINE void add_quads(const float *in, int64_t pitch, float scale, int64_t count,
                           const Operand::Element *const (&lhs)[kTokens], int64_t k,
                           Vector (&chains)[kTokens][kChains]) {
  Vector rows[kQuads][4];
#pragma GCC unroll 4
  for (int64_t i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int64_t q = 0; q < kQuads; ++q) rows[q][i] = load_quads(in + i * pitch + 4 * q, pitch);
  }
#pragma GCC unroll 4
  for (int64_t q = 0; q < kQuads; ++q) {
    const Vector even_low = interleave_low(rows[q][0], rows[q][2]);
    const Vector even_high = interleave_high(rows[q][0], rows[q][2]);
    const Vector odd_low = interleave_low(rows[q][1], rows[q][3]);
    const Vector odd_high = interleave_high(rows[q][1], rows[q][3]);
    const Vector columns[4] = {interleave_low(even_low, odd_low), interleave_high(even_low, odd_low),
                               interleave_low(even_high, odd_high), interleave_high(even_high, odd_high)};
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) {
      if (4 * q + i >= count) continue;
      const Vector column = kScales ? scale * columns[i] : columns[i];
#pragma GCC unroll 8
      for (int64_t t = 0; t < kTokens; ++t) {
        Vector &chain = chains[t][i % kChains];
        chain = Operand::multiply_add(Operand::step_of(lhs[t] + (k + 4 * q + i) * Operand::kDepth), column, chain);
      }
    }
  }
}

// out[t][i] (+)= sum over `steps` steps of lhs[t][k] scale in[i][k], for `rows` rows i of `in`, whole vectors, and the
// first `tokens` of kTokens rows of lhs. Two chains as in multiply_narrow_tile.
template <int64_t kTokens, int64_t kChains, bool kScales>
void multiply_in_place(const float *in, int64_t pitch, int64_t rows, int64_t steps, float scale, const FewRows &lhs,
                       int64_t tokens, const Sums &out, bool accumulate) {
  const Operand::Element *row[kTokens];
  for (int64_t t = 0; t < kTokens; ++t) row[t] = lhs.row[minimum(t, tokens - 1)];
  for (int64_t i = 0; i < rows; i += kLanes) {
    Vector chains[kTokens][kChains];
#pragma GCC unroll 8
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t c = 0; c < kChains; ++c) chains[t][c] = Vector{};
    }
    const float *const first = in + i * pitch;
    int64_t k = 0;
    for (; k + 4 * kSquareQuads <= steps; k += 4 * kSquareQuads) {
      add_quads<kSquareQuads, kScales>(first + k, pitch, scale, 4 * kSquareQuads, row, k, chains);
    }
    for (; k < steps; k += 4) add_quads<1, kScales>(first + k, pitch, scale, steps - k, row, k, chains);
#pragma GCC unroll 8
    for (int64_t t = 0; t < kTokens; ++t) {
      if (t >= tokens) continue;
      const Vector sum = kChains == 2 ? chains[t][0] + chains[t][kChains - 1] : chains[t][0];
      float *const to = out.data + t * out.pitch + i;
      store(to, accumulate ? load(to) + sum : sum);
    }
  }
}

template <int64_t kChains, bool kScales>
LILY_INLINE void multiply_tokens(const float *in, int64_t pitch, int64_t rows, int64_t steps, float scale,
                                 const FewRows &lhs, int64_t tokens, const Sums &out, bool accumulate) {
  for (int64_t t = 0; t < tokens; t += kSquareTokens) {
    FewRows run = {};
    for (int64_t i = t; i < tokens; ++i) run.row[i - t] = lhs.row[i];
    const int64_t count = minimum(kSquareTokens, tokens - t);
    const auto multiply = count == 1   ? multiply_in_place<1, kChains, kScales>
                          : count == 2 ? multiply_in_place<2, kChains, kScales>
                          : count <= 4 ? multiply_in_place<4, kChains, kScales>
                                       : multiply_in_place<kSquareTokens, kChains, kScales>;
    multiply(in, pitch, rows, steps, scale, run, count, {out.data + t * out.pitch, out.pitch}, accumulate);
  }
}

// Steps of a row that is copied: the rows do not displace each other in the L1 cache.
LILY_INLINE int64_t copy_pitch(int64_t depth) { return round_up(steps_of<Operand>(depth), kLanes) + kLanes; }

// out[t][i] (+)= sum over k < depth of lhs[t][k] scale in[i][k] for `rows` rows i; whole vectors are written. Rows that
// are no whole vector, or whose elements are not whole steps, are copied to `copy`, which holds kLanes *
// copy_pitch(depth).
template <int64_t kChains, bool kScales, typename E>
void multiply_few(const E *in, int64_t pitch, int64_t rows, int64_t depth, float scale, const FewRows &lhs,
                  int64_t tokens, const Sums &out, bool accumulate, float *copy) {
  constexpr int64_t kDepth = Operand::kDepth;
  const int64_t steps = steps_of<Operand>(depth);
  int64_t i = 0;
  if constexpr (__is_same(E, Operand::Element)) {
    constexpr bool kScalesSteps = kScales && kDepth == 1;
    if (depth % (4 * kDepth) == 0 && pitch % kDepth == 0 && (kScales == kScalesSteps || scale == 1.0f)) {
      i = rows / kLanes * kLanes;
      multiply_tokens<kChains, kScalesSteps>(reinterpret_cast<const float *>(in), pitch / kDepth, i, steps, scale, lhs,
                                             tokens, out, accumulate);
    }
  }
  for (; i < rows; i += kLanes) {
    const int64_t count = minimum(kLanes, rows - i);
    if (count < kLanes) clear(copy, kLanes * copy_pitch(depth));
    for (int64_t lane = 0; lane < count; ++lane) {
      for (int64_t k = 0; k < steps; k += kLanes) {
        const int64_t column = k * kDepth;
        const Vector values = Operand::load_steps(in + (i + lane) * pitch + column, depth - column, scale);
        store(copy + lane * copy_pitch(depth) + k, values);
      }
    }
    multiply_tokens<kChains, false>(copy, copy_pitch(depth), kLanes, steps, 1.0f, lhs, tokens,
                                    {out.data + i, out.pitch}, accumulate);
  }
}

LILY_INLINE int64_t shrink_few_scratch(const ForwardPass &pass) {
  const int64_t width = pass.shrink_splits.width;
  return kFewTokens * round_up(width, kLanes) + kLanes * copy_pitch(width);
}

// The partial sums of the splits [split_begin, split_end).
LILY_INLINE void shrink_few(const ForwardPass &pass, int64_t split_begin, int64_t split_end, const RankTile &tile,
                            float *scratch) {
  const int64_t tokens = tile.token_end - tile.token_begin;
  float *const copy = scratch + kFewTokens * round_up(pass.shrink_splits.width, kLanes);
  for (int64_t split = split_begin; split < split_end; ++split) {
    const int64_t begin = pass.shrink_splits.begin(split), depth = pass.shrink_splits.end(split) - begin;
    const FewRows x = few_rows(rows_from(pass.x_rows, tile.token_begin, begin), tokens, depth, scratch);
    const lily_matrix a = submatrix(pass.call->a, tile.rank_begin, begin);
    const Sums hidden = {pass.hidden_partials.row_of_split(split, tile.token_begin) + tile.rank_begin,
                         pass.hidden_partials.pitch};
    with_element(a.dtype, [&](auto element) __attribute__((always_inline)) {
      const auto multiply = pass.call->problem.rank <= kLanes ? multiply_few<2, false, decltype(element)>
                                                              : multiply_few<1, false, decltype(element)>;
      multiply(static_cast<const decltype(element) *>(a.data), a.pitch, tile.ranks(), depth, 1.0f, x, tokens, hidden,
               pass.hidden_partials.accumulates(split), copy);
    });
  }
}

// sums[t] += lhs_t C for `count` rows of C, which are combined as in combine_rows. `b` is the first of these rows of
// B_0, and `scaled` has the factors s w_e. lhs_t starts at `k`.
template <typename E>
LILY_INLINE void add_few_steps(const ExpertStack &stack, const E *b, const float *scaled, int64_t count,
                               int64_t columns, const FewRows &lhs, int64_t k, int64_t tokens, float *sums) {
  const int64_t pitch = stack.b.pitch, expert_pitch = stack.rank * pitch, steps = steps_of<Operand>(count);
  for_vectors(columns, [&](int64_t j, int64_t width) __attribute__((always_inline)) {
    Vector rows[kFewSteps][Operand::kDepth] = {};
    for (int64_t e = 0; e < stack.experts; ++e) {
      const E *const first = b + e * expert_pitch + j;
#pragma GCC unroll 8
      for (int64_t i = 0; i < kFewSteps * Operand::kDepth; ++i) {
        if (i >= count) continue;
        rows[i / Operand::kDepth][i % Operand::kDepth] += scaled[e] * load_up_to(first + i * pitch, width);
      }
    }
    Vector c[kFewSteps];
#pragma GCC unroll 4
    for (int64_t i = 0; i < kFewSteps; ++i) c[i] = Operand::interleave(rows[i]);
    for (int64_t t = 0; t < tokens; ++t) {
      Vector sum = load(sums + t * kFewColumns + j);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kFewSteps; ++i) {
        if (i < steps) sum = Operand::multiply_add(Operand::step_of(lhs.row[t] + k + i * Operand::kDepth), c[i], sum);
      }
      store(sums + t * kFewColumns + j, sum);
    }
  });
}

// sums[t] = lhs_t C of a group.
LILY_INLINE void multiply_few_combined(const ExpertStack &stack, int64_t group, int64_t begin, int64_t columns,
                                       const FewRows &lhs, int64_t tokens, float *sums) {
  float scaled[kMaxExperts];
  for (int64_t e = 0; e < stack.experts; ++e) scaled[e] = stack.scaling * stack.weights[group * stack.experts + e];
  clear(sums, tokens * kFewColumns);
  with_element(stack.b.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *b = static_cast<const decltype(element) *>(stack.b.data) + begin;
    constexpr int64_t kRows = kFewSteps * Operand::kDepth;
    int64_t i = 0;
    for (; i + kRows <= stack.rank; i += kRows) {
      add_few_steps(stack, b + i * stack.b.pitch, scaled, kRows, columns, lhs, i, tokens, sums);
    }
    if (i < stack.rank) {
      add_few_steps(stack, b + i * stack.b.pitch, scaled, stack.rank - i, columns, lhs, i, tokens, sums);
    }
  });
}

// Columns of a run that are computed, and how many of them count.
struct ColumnRun {
  int64_t begin, columns;
  int64_t first, count;
};

// Calls body(run) for runs of at most kFewColumns of the columns [begin, end) of y. A vector of B that lies in two
// cache lines takes twice as long, so runs begin with a line. At both ends, whole vectors compute some columns twice.
template <typename Body>
LILY_INLINE void for_column_runs(const ExpertStack &stack, int64_t begin, int64_t end, const Body &body) {
  const auto address = reinterpret_cast<uintptr_t>(submatrix(stack.b, 0, begin).data);
  const int64_t head = stack.transposed ? 0 : static_cast<int64_t>(-address % 64) / element_bytes(stack.b);
  int64_t j = begin;
  if (head > 0 && head + kLanes <= end - begin) {
    body({j, round_up(head, kLanes), 0, head});
    j += head;
  }
  while (j < end) {
    const int64_t left = minimum(kFewColumns, end - j), count = left > kLanes ? left / kLanes * kLanes : left;
    const int64_t again = count < kLanes && j - begin >= kLanes ? kLanes - count : 0;
    body({j - again, again + count, again, count});
    j += count;
  }
}

LILY_INLINE int64_t expand_few_scratch(const ForwardPass &pass) {
  const int64_t copy = pass.stack.transposed ? kLanes * copy_pitch(pass.stack.rank) : 0;
  return kFewTokens * (kFewColumns + round_up(pass.stack.rank, kLanes)) + copy;
}

// The columns [begin, end) of all tokens.
LILY_INLINE void expand_few(const ForwardPass &pass, int64_t begin, int64_t end, float *scratch) {
  float *const sums = scratch, *const lhs_copy = sums + kFewTokens * kFewColumns;
  float *const copy = lhs_copy + kFewTokens * round_up(pass.stack.rank, kLanes);
  for (int64_t group = 0; group < pass.groups.count; ++group) {
    const int64_t first = pass.groups.begin(group), tokens = pass.groups.end(group) - first;
    if (tokens == 0) continue;
    const FewRows lhs = few_rows({submatrix(pass.lhs, first, 0), nullptr}, tokens, pass.stack.rank, lhs_copy);
    const auto expand_run = [&](const ColumnRun &run) {
      if (pass.stack.transposed) {
        with_element(pass.stack.b.dtype, [&](auto element) __attribute__((always_inline)) {
          const auto *const b = static_cast<const decltype(element) *>(submatrix(pass.stack.b, run.begin, 0).data);
          multiply_few<1, true>(b, pass.stack.b.pitch, run.columns, pass.stack.rank, pass.stack.scaling, lhs, tokens,
                                {sums, kFewColumns}, false, copy);
        });
      } else {
        multiply_few_combined(pass.stack, group, run.begin, run.columns, lhs, tokens, sums);
      }
      write_rows(tokens, run.count, sums + run.first, kFewColumns, 1.0f,
                 rows_from(pass.y_rows, first, run.begin + run.first), pass.call->y.accumulate != 0);
    };
    for_column_runs(pass.stack, begin, end, expand_run);
  }
}

}  // namespace
}  // namespace lily::cpu
