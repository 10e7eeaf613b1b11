// Scaled dot-product attention of one head, in blocks of keys that no pass over the queries materialises as a whole:
//
//   S = scale q K^T             over the keys that a query sees
//   P = exp(S - m) / l          m: the maximum of a row of S, l: the sum of its exponentials
//   y = P V
//
//   dV = P^T dy
//   dS = P (dy V^T - rowsum(dy y)) scale
//   dq = dS K,  dK = dS^T q
//
//   q, y, dy, dq        [batch * tokens][heads * d], a head is d columns
//   k, v, dk, dv        [batch * keys][heads * d]
//   statistics          [batch * heads][2][tokens]: m, then 1 / l; 0 and 0 for a query that sees no key
//
// The forward pass follows FlashAttention-2 (arXiv 2307.08691), and backward computes P again; m and l
// are kept instead of m + log l, so that P has the same bits in both. Each query takes the blocks of keys in order, and
// each key the blocks of queries: no sum depends on the tasks, on other items of the batch or on other heads.
//
// Forward tasks: heads x blocks of queries. Backward tasks: heads, because dq sums over keys and dK over queries.
#pragma once

#include "cpu/pack.h"
#include "cpu/scratch.h"

namespace lily::cpu {
namespace {

// Keys of a block of forward: K^T, V and six rows of S stay in the L2 cache.
constexpr int64_t kForwardKeys = 256;
// Blocks of backward, which has three packed operands of keys, two sums, and two blocks of scores.
constexpr int64_t kBackwardKeys = 128, kBackwardQueries = 192;
static_assert(kForwardKeys % kPanel == 0 && kBackwardKeys % kPanel == 0 && kBackwardQueries % kTileRows == 0);

// Floats from one row of scores to the next: a cache line more than the keys, so that a column of scores, which is a
// row of P^T, does not fall on few sets of the L1 cache.
constexpr int64_t score_pitch(int64_t keys) { return keys + 16; }

// Packed: panels of `columns`, each with `steps` rows of kPanel floats.
LILY_INLINE int64_t panels_floats(int64_t columns, int64_t steps) { return panel_count(columns) * steps * kPanel; }

// in, where k counts its rows. Rows with keeps[i] == 0 count as zero.
LILY_INLINE void pack_panels(const lily_matrix &in, int64_t rows, int64_t columns, const uint8_t *keeps, float *out) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    pack<Floats>(rows, panel_columns(columns, p), submatrix(in, 0, p * kPanel), 1.0f, out + p * rows * kPanel, kPanel,
                 keeps);
  }
}

// scale * in^T, where k counts the columns of `in`.
LILY_INLINE void pack_panels_transposed(const lily_matrix &in, int64_t rows, int64_t columns, float scale, float *out) {
  for (int64_t p = 0; p < panel_count(rows); ++p) {
    pack_transposed<Floats>(panel_columns(rows, p), columns, submatrix(in, p * kPanel, 0), scale,
                            out + p * columns * kPanel, kPanel);
  }
}

// sums (+)= lhs rhs, the panels of rhs having `panel_steps` rows each; the product takes `shape.steps` of them.
LILY_INLINE void multiply_panels(const ProductShape &shape, LeftOperand<Floats> lhs, const float *rhs,
                                 int64_t panel_steps, const Sums &sums, bool accumulate) {
  for (int64_t p = 0; p < panel_count(shape.columns); ++p) {
    multiply_rows<Floats>({shape.rows, round_up(panel_columns(shape.columns, p), kLanes), shape.steps}, lhs,
                          {rhs + p * panel_steps * kPanel, kPanel}, {sums.data + p * kPanel, sums.pitch}, accumulate);
  }
}

LILY_INLINE bool has_finite_rows(const lily_matrix &matrix, int64_t rows, int64_t columns) {
  Vector differences = {};
  for (int64_t i = 0; i < rows; ++i) {
    const auto *const row = static_cast<const float *>(submatrix(matrix, i, 0).data);
    for_vectors(columns, [&](int64_t j, int64_t lanes) __attribute__((always_inline)) {
      const Vector values = load_up_to(row + j, lanes);
      differences += values - values;  // NaN for NaN and infinity
    });
  }
  return sum_lanes(differences) == 0.0f;
}

// sums (+)= lhs rhs for a tile of queries: query i sees the keys before limit(i), which ascend, and lhs is 0 for those
// after. `keys_of_block` are the rows of rhs before they were packed: what a key holds reaches no query that does not
// see it, although 0 times NaN is NaN.
template <typename Limit>
LILY_INLINE void multiply_seen(int64_t rows, int64_t columns, LeftOperand<Floats> lhs, const float *rhs,
                               int64_t panel_steps, const lily_matrix &keys_of_block, const Sums &sums, bool accumulate,
                               const Limit &limit) {
  const int64_t seen_by_all = limit(0), seen_by_any = limit(rows - 1);
  if (has_finite_rows(submatrix(keys_of_block, seen_by_all, 0), seen_by_any - seen_by_all, columns)) {
    multiply_panels({rows, columns, seen_by_any}, lhs, rhs, panel_steps, sums, accumulate);
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    multiply_panels({1, columns, limit(i)}, {lhs.data + i * lhs.row_stride, lhs.row_stride, lhs.step_stride}, rhs,
                    panel_steps, {sums.data + i * sums.pitch, sums.pitch}, accumulate);
  }
}

LILY_INLINE LeftOperand<Floats> rows_of(const lily_matrix &matrix, int64_t row) {
  return {static_cast<const float *>(matrix.data) + row * matrix.pitch, matrix.pitch, 1};
}

// ---- The keys that a query sees ----

typedef int32_t UnalignedInts __attribute__((vector_size(LILY_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t Number __attribute__((may_alias));

// For each key of a block its number in the block, or one that no limit exceeds if the mask drops the key or if it pads
// the last vector. A query that sees the keys before `limit` sees those whose order is less than `limit`.
LILY_INLINE void order_keys(int64_t keys, const uint8_t *keeps, float *order) {
  auto *const out = reinterpret_cast<Number *>(order);
  for (int64_t j = 0; j < round_up(keys, kLanes); ++j) {
    out[j] = j < keys && (keeps == nullptr || keeps[j] != 0) ? static_cast<int32_t>(j) : INT32_MAX;
  }
}

LILY_INLINE Vector seen(const float *order, int32_t limit, Vector value, Vector otherwise) {
  const IntVector is_seen = *reinterpret_cast<const UnalignedInts *>(order) < limit;
  return is_seen ? value : otherwise;
}

// One head of one item of the batch.
struct Head {
  int64_t index;  // batch * heads + head
  int64_t first_query, first_key, first_column;
  const uint8_t *keeps;  // of the first key; null: all
  int64_t keys;
  int64_t lead;  // a query sees the keys before its number + lead

  template <typename Call>
  LILY_INLINE Head(const Call &call, int64_t head) {
    const lily_cpu_attention_problem &problem = call.problem;
    const int64_t item = head / problem.heads;
    index = head;
    first_query = item * problem.tokens;
    first_key = item * problem.keys;
    first_column = head % problem.heads * problem.d_head;
    keeps = call.mask == nullptr ? nullptr : call.mask + first_key;
    keys = problem.keys;
    // Without `causal` every query sees all keys.
    lead = problem.causal != 0 ? problem.keys - problem.tokens + 1 : problem.keys;
  }

  LILY_INLINE lily_matrix queries(const lily_matrix &matrix, int64_t query) const {
    return submatrix(matrix, first_query + query, first_column);
  }
  LILY_INLINE lily_matrix keys_of(const lily_matrix &matrix, int64_t key) const {
    return submatrix(matrix, first_key + key, first_column);
  }
  LILY_INLINE const uint8_t *keeps_from(int64_t key) const { return keeps == nullptr ? nullptr : keeps + key; }
  // The keys from `key` on that a query sees, at most `most`.
  LILY_INLINE int64_t limit(int64_t query, int64_t key, int64_t most) const {
    return maximum(0, minimum(most, query + lead - key));
  }
};

// ---- Forward ----

struct ForwardScratch {
  float *keys, *values;  // K^T and V, packed
  float *order;
  float *scores;  // kTileRows rows
  float *sums;    // y before the division
  float *maxima, *totals;
  int64_t floats;

  LILY_INLINE ForwardScratch(const AttentionPass &pass, float *memory) {
    const int64_t d = pass.call->problem.d_head, keys_of_block = minimum(kForwardKeys, pass.call->problem.keys);
    Scratch scratch(memory);
    keys = scratch.take(panels_floats(keys_of_block, d));
    values = scratch.take(panels_floats(d, keys_of_block));
    order = scratch.take(kForwardKeys);
    scores = scratch.take(kTileRows * score_pitch(kForwardKeys));
    sums = scratch.take(pass.queries.width * round_up(d, kLanes));
    maxima = scratch.take(pass.queries.width);
    totals = scratch.take(pass.queries.width);
    floats = scratch.floats();
  }
};

int64_t attention_scratch(const AttentionPass &pass) { return ForwardScratch(pass, nullptr).floats; }

// Replaces a row of scores by exponentials, and returns the factor of the exponentials of the blocks before.
LILY_INLINE float exponentials(float *scores, int64_t keys, const float *order, int64_t limit, float &largest,
                               float &total) {
  const Vector none = broadcast(-__builtin_inff());
  Vector maxima = none;
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vector score = seen(order + j, static_cast<int32_t>(limit), load(scores + j), none);
    maxima = score > maxima ? score : maxima;
    store(scores + j, score);
  }
  float lanes[kLanes];
  store(lanes, maxima);
  const float before = largest;
  for (int64_t lane = 0; lane < kLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
  // As long as no key is seen, the exponentials are exp(-inf).
  const float shift = largest == -__builtin_inff() ? 0.0f : largest;
  Vector sum = {};
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vector exponential = exp_of_nonpositive(load(scores + j) - shift);
    sum += exponential;
    store(scores + j, exponential);
  }
  const float factor = exp_of_nonpositive(broadcast(before - shift))[0];
  total = total * factor + sum_lanes(sum);
  return factor;
}

void attention(const AttentionPass &pass, int64_t task, float *memory) {
  const lily_cpu_attention &call = *pass.call;
  const Head head(call, task / pass.queries.count);
  const int64_t block = task % pass.queries.count, d = call.problem.d_head, pitch = round_up(d, kLanes);
  const int64_t begin = pass.queries.begin(block), queries = pass.queries.end(block) - begin;
  const ForwardScratch scratch(pass, memory);
  for (int64_t i = 0; i < queries; ++i) {
    scratch.maxima[i] = -__builtin_inff();
    scratch.totals[i] = 0.0f;
  }
  clear(scratch.sums, queries * pitch);

  const int64_t block_limit = head.limit(begin + queries - 1, 0, head.keys);
  for (int64_t key = 0; key < block_limit; key += kForwardKeys) {
    const int64_t keys = minimum(kForwardKeys, block_limit - key);
    const uint8_t *const keeps = head.keeps_from(key);
    pack_panels_transposed(head.keys_of(call.k, key), keys, d, call.problem.scale, scratch.keys);
    pack_panels(head.keys_of(call.v, key), keys, d, keeps, scratch.values);
    order_keys(keys, keeps, scratch.order);
    for (int64_t row = 0; row < queries; row += kTileRows) {
      const int64_t rows = minimum(kTileRows, queries - row);
      const int64_t rows_limit = head.limit(begin + row + rows - 1, key, keys);
      if (rows_limit == 0) continue;
      const Sums scores = {scratch.scores, score_pitch(kForwardKeys)};
      multiply_panels({rows, rows_limit, d}, rows_of(head.queries(call.q, begin + row), 0), scratch.keys, d, scores,
                      false);
      float *const sums = scratch.sums + row * pitch;
      for (int64_t i = 0; i < rows; ++i) {
        const float factor =
            exponentials(scores.data + i * scores.pitch, rows_limit, scratch.order,
                         head.limit(begin + row + i, key, keys), scratch.maxima[row + i], scratch.totals[row + i]);
        if (key == 0) continue;
        for (int64_t j = 0; j < pitch; j += kLanes) store(sums + i * pitch + j, factor * load(sums + i * pitch + j));
      }
      multiply_seen(rows, d, {scores.data, scores.pitch, 1}, scratch.values, keys, head.keys_of(call.v, key),
                    {sums, pitch}, key > 0,
                    [&](int64_t i) __attribute__((always_inline)) { return head.limit(begin + row + i, key, keys); });
    }
  }

  for (int64_t i = 0; i < queries; ++i) {
    const bool has_keys = scratch.maxima[i] != -__builtin_inff() || !(scratch.totals[i] == 0.0f);
    const float inverse = has_keys ? 1.0f / scratch.totals[i] : 0.0f;
    if (!has_keys) clear(scratch.sums + i * pitch, pitch);
    write_rows(1, d, scratch.sums + i * pitch, pitch, inverse, head.queries(call.y, begin + i), call.y.accumulate != 0);
    if (call.statistics == nullptr) continue;
    float *const maxima = call.statistics + head.index * 2 * call.problem.tokens + begin;
    maxima[i] = has_keys ? scratch.maxima[i] : 0.0f;
    maxima[call.problem.tokens + i] = inverse;
  }
}

// ---- Backward ----

struct BackwardScratch {
  float *keys_transposed, *values_transposed, *keys;  // packed
  float *queries, *dy;                                // packed
  float *order;
  float *probabilities, *d_scores;  // kBackwardQueries rows
  float *d_queries;                 // kTileRows rows
  float *d_keys, *d_values;
  int64_t floats;

  LILY_INLINE BackwardScratch(const AttentionBackwardPass &pass, float *memory) {
    const lily_cpu_attention_problem &problem = pass.call->problem;
    const int64_t d = problem.d_head, pitch = round_up(d, kLanes);
    const int64_t key_rows = minimum(kBackwardKeys, problem.keys);
    const int64_t query_rows = minimum(kBackwardQueries, problem.tokens);
    Scratch scratch(memory);
    keys_transposed = scratch.take(panels_floats(key_rows, d));
    values_transposed = scratch.take(panels_floats(key_rows, d));
    keys = scratch.take(panels_floats(d, key_rows));
    queries = scratch.take(panels_floats(d, query_rows));
    dy = scratch.take(panels_floats(d, query_rows));
    order = scratch.take(kBackwardKeys);
    probabilities = scratch.take(query_rows * score_pitch(kBackwardKeys));
    d_scores = scratch.take(query_rows * score_pitch(kBackwardKeys));
    d_queries = scratch.take(kTileRows * pitch);
    d_keys = scratch.take(key_rows * pitch);
    d_values = scratch.take(key_rows * pitch);
    floats = scratch.floats();
  }
};

int64_t attention_backward_scratch(const AttentionBackwardPass &pass) { return BackwardScratch(pass, nullptr).floats; }

LILY_INLINE float dot_product(const lily_matrix &a, const lily_matrix &b, int64_t count) {
  const auto *const left = static_cast<const float *>(a.data), *const right = static_cast<const float *>(b.data);
  Vector sum = {};
  for_vectors(count, [&](int64_t j, int64_t lanes) __attribute__((always_inline)) {
    sum += load_up_to(left + j, lanes) * load_up_to(right + j, lanes);
  });
  return sum_lanes(sum);
}

// The queries [begin, begin + queries) and the keys [key, key + keys), whose operands are packed: adds to dK and dV,
// and writes or adds to dq.
LILY_INLINE void attention_backward_block(const lily_cpu_attention_backward &call, const Head &head,
                                          const BackwardScratch &scratch, int64_t begin, int64_t queries, int64_t key,
                                          int64_t keys) {
  const lily_cpu_attention_problem &problem = call.problem;
  const int64_t d = problem.d_head, pitch = round_up(d, kLanes), scores = score_pitch(kBackwardKeys);
  const bool needs_scores = call.dq.data != nullptr || call.dk.data != nullptr;
  multiply_panels({queries, keys, d}, rows_of(head.queries(call.q, begin), 0), scratch.keys_transposed, d,
                  {scratch.probabilities, scores}, false);
  if (needs_scores) {
    multiply_panels({queries, keys, d}, rows_of(head.queries(call.dy, begin), 0), scratch.values_transposed, d,
                    {scratch.d_scores, scores}, false);
  }
  const float *const maxima = call.statistics + head.index * 2 * problem.tokens + begin;
  const float *const inverses = maxima + problem.tokens;
  for (int64_t i = 0; i < queries; ++i) {
    const auto limit = static_cast<int32_t>(head.limit(begin + i, key, keys));
    float *const p = scratch.probabilities + i * scores, *const d_p = scratch.d_scores + i * scores;
    const float dot =
        needs_scores ? dot_product(head.queries(call.dy, begin + i), head.queries(call.y, begin + i), d) : 0.0f;
    for (int64_t j = 0; j < keys; j += kLanes) {
      const Vector exponential = exp_of_nonpositive(load(p + j) - maxima[i]);
      const Vector probability = seen(scratch.order + j, limit, exponential * inverses[i], Vector{});
      store(p + j, probability);
      if (!needs_scores) continue;
      // A key that is not seen may hold any number.
      store(d_p + j, seen(scratch.order + j, limit, probability * (load(d_p + j) - dot) * problem.scale, Vector{}));
    }
  }
  // The rows of P^T and dS^T are columns of the scores.
  if (call.dv.data != nullptr) {
    pack_panels(head.queries(call.dy, begin), queries, d, nullptr, scratch.dy);
    multiply_panels({keys, d, queries}, {scratch.probabilities, 1, scores}, scratch.dy, queries,
                    {scratch.d_values, pitch}, true);
  }
  if (call.dk.data != nullptr) {
    pack_panels(head.queries(call.q, begin), queries, d, nullptr, scratch.queries);
    multiply_panels({keys, d, queries}, {scratch.d_scores, 1, scores}, scratch.queries, queries,
                    {scratch.d_keys, pitch}, true);
  }
  if (call.dq.data == nullptr) return;
  for (int64_t row = 0; row < queries; row += kTileRows) {
    const int64_t rows = minimum(kTileRows, queries - row);
    const auto limit = [&](int64_t i) __attribute__((always_inline)) { return head.limit(begin + row + i, key, keys); };
    if (limit(rows - 1) == 0) {
      clear(scratch.d_queries, rows * pitch);
    } else {
      multiply_seen(rows, d, {scratch.d_scores + row * scores, scores, 1}, scratch.keys, keys,
                    head.keys_of(call.k, key), {scratch.d_queries, pitch}, false, limit);
    }
    write_rows(rows, d, scratch.d_queries, pitch, 1.0f, head.queries(call.dq, begin + row),
               key > 0 || call.dq.accumulate != 0);
  }
}

void attention_backward(const AttentionBackwardPass &pass, int64_t task, float *memory) {
  const lily_cpu_attention_backward &call = *pass.call;
  const lily_cpu_attention_problem &problem = call.problem;
  const Head head(call, task);
  const int64_t d = problem.d_head, pitch = round_up(d, kLanes);
  const BackwardScratch scratch(pass, memory);
  if (problem.keys == 0 && call.dq.data != nullptr) {
    clear(scratch.d_queries, pitch);
    for (int64_t i = 0; i < problem.tokens; ++i) {
      write_rows(1, d, scratch.d_queries, pitch, 1.0f, head.queries(call.dq, i), call.dq.accumulate != 0);
    }
  }
  for (int64_t key = 0; key < problem.keys; key += kBackwardKeys) {
    const int64_t keys = minimum(kBackwardKeys, problem.keys - key);
    const uint8_t *const keeps = head.keeps_from(key);
    pack_panels_transposed(head.keys_of(call.k, key), keys, d, problem.scale, scratch.keys_transposed);
    pack_panels_transposed(head.keys_of(call.v, key), keys, d, 1.0f, scratch.values_transposed);
    pack_panels(head.keys_of(call.k, key), keys, d, keeps, scratch.keys);
    order_keys(keys, keeps, scratch.order);
    clear(scratch.d_keys, keys * pitch);
    clear(scratch.d_values, keys * pitch);
    // The first block of keys writes dq of every query. Queries before the first one that sees a block add nothing to
    // it.
    const int64_t first = key == 0 ? 0 : maximum(0, key - head.lead + 1);
    for (int64_t begin = first; begin < problem.tokens; begin += kBackwardQueries) {
      attention_backward_block(call, head, scratch, begin, minimum(kBackwardQueries, problem.tokens - begin), key,
                               keys);
    }
    if (call.dk.data != nullptr) {
      write_rows(keys, d, scratch.d_keys, pitch, 1.0f, head.keys_of(call.dk, key), call.dk.accumulate != 0);
    }
    if (call.dv.data != nullptr) {
      write_rows(keys, d, scratch.d_values, pitch, 1.0f, head.keys_of(call.dv, key), call.dv.accumulate != 0);
    }
  }
}

constexpr AttentionProducts kAttentionProducts = {
    .tile_rows = kTileRows,
    .scratch = attention_scratch,
    .forward = attention,
    .backward_scratch = attention_backward_scratch,
    .backward = attention_backward,
};

}  // namespace
}  // namespace lily::cpu
