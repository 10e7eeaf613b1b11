// The mask of dropout, as docs/math.md defines it: numbers of 16 bits from Philox 4x32-10 (Salmon et al. 2011).
//
//   round:  c0, c1, c2, c3 = high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1, low(M0 c0)
//
// The counter is column / 8, token, and the two words of the position. Its four words after ten rounds are the numbers
// of eight columns. A block of kMaskBlock columns has one counter per lane of 64 bits, for each of the four words: a
// word is the lower half of a lane, and a product fills the lane, so that its halves need no blend. Neither words nor
// products of the first two rounds, and two products of the third, depend on both column and token: they are computed
// once per block, or once per token.
//
// A mask is one bit per element, 1 keeps it: [row][pitch bytes], column j in bit j % 8 of byte j / 8. It is in the
// scratch of a task, for the elements that the task is about to read or write, and computed again wherever it is
// needed.
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

#if defined(__AVX512BW__)
constexpr int64_t kWordBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kWordBytes = 32;
#else
constexpr int64_t kWordBytes = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(kWordBytes)));

constexpr int64_t kCounters = kWordBytes / 8;
// Number of columns whose mask is computed at a time.
constexpr int64_t kMaskBlock = 8 * kCounters;

struct Mask {
  const uint8_t *bits;  // null: all elements are kept
  int64_t pitch;

  LILY_INLINE const uint8_t *row(int64_t i) const { return bits + i * pitch; }
  // The same rows, from a column on that is a multiple of 8.
  LILY_INLINE Mask from_column(int64_t column) const { return {bits + column / 8, pitch}; }
  LILY_INLINE Mask from_row(int64_t i) const { return {row(i), pitch}; }
};

// What a mask depends on, besides token and column.
struct Dropout {
  uint32_t threshold;    // an element is dropped if its number is below it; 0: there is no dropout
  const uint32_t *draw;  // the words of seed and position, the low one of each first

  LILY_INLINE bool drops() const { return threshold != 0; }
};

template <typename Call>
LILY_INLINE Dropout dropout_of(const Call &call) {
  return {call.problem.dropout, call.tokens.draw};
}

// q: what the sum over kept elements is multiplied by.
LILY_INLINE float dropout_factor(const lily_problem &problem) {
  return 65536.0f / static_cast<float>(65536 - problem.dropout);
}

// The bytes of a row of a mask, whole blocks of every instruction set, and the floats that hold a mask.
constexpr int64_t mask_pitch(int64_t columns) { return (columns + 63) / 64 * 8; }
constexpr int64_t mask_floats(int64_t rows, int64_t columns) { return (rows * mask_pitch(columns) + 3) / 4; }

constexpr uint64_t kMultipliers[] = {0xd2511f53, 0xcd9e8d57};

LILY_INLINE uint32_t high_half(uint64_t product) { return static_cast<uint32_t>(product >> 32); }
LILY_INLINE Words in_all_lanes(uint64_t value) { return value - Words{}; }

// The products of the lower halves of the lanes.
LILY_INLINE Words multiply_words(Words words, uint64_t multiplier) {
  const Words factor = in_all_lanes(multiplier);
#if defined(__AVX512BW__)
  return (Words)_mm512_mul_epu32((__m512i)words, (__m512i)factor);
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)words, (__m256i)factor);
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)words, (__m128i)factor);
#elif defined(__aarch64__)
  return (Words)vmull_u32(vmovn_u64((uint64x2_t)words), vmovn_u64((uint64x2_t)factor));
#else
  return (words & 0xffffffff) * factor;
#endif
}

// Exchanges the halves of each lane. Of AVX, a shuffle: shifts would share their unit with the products.
LILY_INLINE Words exchange_halves(Words words) {
#if defined(__AVX512BW__)
  return (Words)_mm512_shuffle_epi32((__m512i)words, _MM_PERM_CDAB);
#elif defined(__AVX2__)
  return (Words)_mm256_shuffle_epi32((__m256i)words, 0xb1);
#else
  return words >> 32 | words << 32;
#endif
}

LILY_INLINE Words xor_three(Words a, Words b, Words c) {
#if defined(__AVX512BW__)
  return (Words)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
  return a ^ b ^ c;
#endif
}

// The words high(product) ^ word ^ key of the last round in the lower halves, and low(product) in the upper halves.
LILY_INLINE Words last_words(Words product, Words word, uint32_t key) {
  const Words exchanged = exchange_halves(product);
#if defined(__AVX512BW__)
  return (Words)_mm512_mask_ternarylogic_epi32((__m512i)exchanged, 0x5555, (__m512i)word, (__m512i)in_all_lanes(key),
                                               0x96);
#else
  return exchanged ^ (word & 0xffffffff) ^ key;
#endif
}

// The counters of the lanes, such that store_mask finds their numbers in order.
#if defined(__AVX512BW__)
constexpr Words kLaneCounters = {0, 4, 1, 5, 2, 6, 3, 7};
#elif defined(__AVX2__)
constexpr Words kLaneCounters = {0, 1, 2, 3};
#else
constexpr Words kLaneCounters = {0, 1};
#endif

// The bits of a block: from the words 0 and 1, and 2 and 3, of each lane.
LILY_INLINE void store_mask(Words first, Words second, uint32_t threshold, uint8_t *bits) {
#if defined(__AVX512BW__)
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  const __m512i even = _mm512_unpacklo_epi64((__m512i)first, (__m512i)second);
  const __m512i odd = _mm512_unpackhi_epi64((__m512i)first, (__m512i)second);
  const uint32_t kept[] = {_mm512_cmpge_epu16_mask(even, least), _mm512_cmpge_epu16_mask(odd, least)};
#elif defined(__AVX2__)
  // A number is at least the threshold if threshold - number saturates at 0.
  const __m256i least = _mm256_set1_epi16(static_cast<int16_t>(threshold)), zero = _mm256_setzero_si256();
  const __m256i even = _mm256_unpacklo_epi64((__m256i)first, (__m256i)second);
  const __m256i odd = _mm256_unpackhi_epi64((__m256i)first, (__m256i)second);
  const __m256i packed = _mm256_packs_epi16(_mm256_cmpeq_epi16(_mm256_subs_epu16(least, even), zero),
                                            _mm256_cmpeq_epi16(_mm256_subs_epu16(least, odd), zero));
  const int32_t kept = _mm256_movemask_epi8(packed);
#elif defined(__SSE2__)
  const __m128i least = _mm_set1_epi16(static_cast<int16_t>(threshold)), zero = _mm_setzero_si128();
  const __m128i even = _mm_unpacklo_epi64((__m128i)first, (__m128i)second);
  const __m128i odd = _mm_unpackhi_epi64((__m128i)first, (__m128i)second);
  const auto kept = static_cast<uint16_t>(_mm_movemask_epi8(_mm_packs_epi16(
      _mm_cmpeq_epi16(_mm_subs_epu16(least, even), zero), _mm_cmpeq_epi16(_mm_subs_epu16(least, odd), zero))));
#else
  typedef uint16_t Numbers __attribute__((vector_size(16)));
  const Numbers numbers[] = {(Numbers)Words{first[0], second[0]}, (Numbers)Words{first[1], second[1]}};
  uint8_t kept[2];
  for (int i = 0; i < 2; ++i) {
    const auto is_kept = (Numbers)(numbers[i] >= static_cast<uint16_t>(threshold));
    const Numbers bit = is_kept & Numbers{1, 2, 4, 8, 16, 32, 64, 128};
#if defined(__aarch64__)
    kept[i] = static_cast<uint8_t>(vaddvq_u16((uint16x8_t)bit));
#else
    kept[i] = static_cast<uint8_t>(bit[0] + bit[1] + bit[2] + bit[3] + bit[4] + bit[5] + bit[6] + bit[7]);
#endif
  }
#endif
  static_assert(sizeof(kept) == kMaskBlock / 8);
  __builtin_memcpy(bits, &kept, sizeof(kept));
}

// Computes the mask of the given tokens and columns in `memory`, which has mask_floats(tokens, columns). `column` is a
// multiple of 8.
__attribute__((noinline)) Mask compute_mask(const Dropout &dropout, int64_t token, int64_t tokens, int64_t column,
                                            int64_t columns, float *memory) {
  auto *const bits = reinterpret_cast<uint8_t *>(memory);
  const int64_t pitch = mask_pitch(columns);
  constexpr int kRounds = 10;
  uint32_t key_0[kRounds], key_1[kRounds];
  key_0[0] = dropout.draw[0];
  key_1[0] = dropout.draw[1];
  for (int round = 1; round < kRounds; ++round) {
    key_0[round] = key_0[round - 1] + 0x9e3779b9;
    key_1[round] = key_1[round - 1] + 0xbb67ae85;
  }
  const uint64_t position = dropout.draw[2] * kMultipliers[1];
  constexpr int64_t kTokens = 64;
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const int64_t count = minimum(kTokens, tokens - t);
    uint64_t highs[kTokens], lows[kTokens];
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t word = high_half(position) ^ static_cast<uint32_t>(token + t + i) ^ key_0[0];
      const uint64_t product = word * kMultipliers[0];
      highs[i] = high_half(product);
      lows[i] = product;
    }
    for (int64_t j = 0; j < columns; j += kMaskBlock) {
      const Words of_columns = multiply_words(in_all_lanes((column + j) / 8) + kLaneCounters, kMultipliers[0]);
      const Words word_2 = (of_columns >> 32) ^ (dropout.draw[3] ^ key_1[0]);
      const Words product_1 = multiply_words(word_2, kMultipliers[1]);
      const Words product_0 =
          multiply_words((product_1 >> 32) ^ static_cast<uint32_t>(position) ^ key_0[1], kMultipliers[0]);
      const Words third_2 = of_columns ^ key_1[1];
      const Words fourth_0 = product_1 ^ key_0[2], fourth_2 = (product_0 >> 32) ^ key_1[2];
      uint8_t *to = bits + t * pitch + j / 8;
      for (int64_t i = 0; i < count; ++i, to += pitch) {
        Words word_1 = multiply_words(third_2 ^ highs[i], kMultipliers[1]), word_3 = product_0;
        Words word_0 = exchange_halves(word_1) ^ fourth_0, word_2_of_token = fourth_2 ^ lows[i];
#pragma GCC unroll 8
        for (int round = 3; round < kRounds - 1; ++round) {
          const Words of_0 = multiply_words(word_0, kMultipliers[0]);
          const Words of_2 = multiply_words(word_2_of_token, kMultipliers[1]);
          word_0 = xor_three(exchange_halves(of_2), word_1, in_all_lanes(key_0[round]));
          word_2_of_token = xor_three(exchange_halves(of_0), word_3, in_all_lanes(key_1[round]));
          word_1 = of_2;
          word_3 = of_0;
        }
        store_mask(last_words(multiply_words(word_2_of_token, kMultipliers[1]), word_1, key_0[kRounds - 1]),
                   last_words(multiply_words(word_0, kMultipliers[0]), word_3, key_1[kRounds - 1]), dropout.threshold,
                   to);
      }
    }
  }
  return {bits, pitch};
}

// ---- Use of a mask ----

// The bits of kLanes elements from column j on, which is a multiple of kLanes.
LILY_INLINE uint32_t lane_bits(const uint8_t *row, int64_t j) {
  if constexpr (kLanes == 16) {
    uint16_t bits;
    __builtin_memcpy(&bits, row + j / 8, sizeof(bits));
    return bits;
  }
  return kLanes == 8 ? row[j / 8] : row[j / 8] >> j % 8;
}

// The lanes of `value` whose bits are 1, and the other lanes of `otherwise`.
LILY_INLINE Vector select_lanes(uint32_t bits, Vector value, Vector otherwise) {
#if defined(__AVX512F__)
  return (Vector)_mm512_mask_mov_ps((__m512)otherwise, static_cast<__mmask16>(bits), (__m512)value);
#else
#if LILY_VECTOR_BYTES == 64
  constexpr BitVector kBits = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                               1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
#elif LILY_VECTOR_BYTES == 32
  constexpr BitVector kBits = {1, 2, 4, 8, 16, 32, 64, 128};
#else
  constexpr BitVector kBits = {1, 2, 4, 8};
#endif
  return ((bits - BitVector{}) & kBits) == kBits ? value : otherwise;
#endif
}

// Zeros in the place of dropped elements, also of NaN.
LILY_INLINE Vector keep(const uint8_t *row, int64_t j, Vector value) {
  return select_lanes(lane_bits(row, j), value, Vector{});
}

// Up to kLanes elements: to (+)= value where the bit is 1. A dropped element is left alone if `to` accumulates, and 0
// otherwise.
template <typename E>
LILY_INLINE void write_kept(E *to, uint32_t bits, Vector value, int64_t count, bool accumulate) {
  const Vector old = accumulate ? load_up_to(to, count) : Vector{};
  store_up_to(to, select_lanes(bits, accumulate ? old + value : value, old), count);
}

// The same for out[i][j] (+)= sums[i][j].
LILY_INLINE void write_kept_rows(int64_t rows, int64_t columns, const float *sums, int64_t width, const Mask &mask,
                                 const lily_matrix &out) {
  with_element(out.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    const bool accumulate = out.accumulate != 0;
    for (int64_t i = 0; i < rows; ++i) {
      E *const to = static_cast<E *>(out.data) + i * out.pitch;
      const uint8_t *const kept = mask.row(i);
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        write_kept(to + j, lane_bits(kept, j), load(sums + i * width + j), count, accumulate);
      });
    }
  });
}

// Clears the rows of a mask where `keeps` is 0.
LILY_INLINE void drop_rows(int64_t rows, const uint8_t *keeps, const Mask &mask) {
  for (int64_t i = 0; i < rows; ++i) {
    if (keeps[i] == 0) __builtin_memset(const_cast<uint8_t *>(mask.row(i)), 0, static_cast<size_t>(mask.pitch));
  }
}

}  // namespace
}  // namespace lily::cpu
