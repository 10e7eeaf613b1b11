// One vector type for every instruction set, made of the vector extensions of GCC and Clang. Each translation unit
// defines LILY_VECTOR_BYTES and LILY_VECTOR_REGISTERS and has its own compiler flags. Everything here has internal
// linkage, so that the linker cannot put code for a wider instruction set into a narrower one. For the same reason
// kernel files include no C++ library header. test/cpu/register-tiles.test.ts looks at the object files.
#pragma once

#include "cpu/kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lily::cpu {
namespace {

typedef float Vector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef int32_t IntVector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef uint32_t BitVector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef float UnalignedVector __attribute__((vector_size(LILY_VECTOR_BYTES), aligned(4), may_alias));

// One 16-bit number per lane of a Vector.
typedef uint16_t HalfVector __attribute__((vector_size(LILY_VECTOR_BYTES / 2)));
typedef uint16_t UnalignedHalfVector __attribute__((vector_size(LILY_VECTOR_BYTES / 2), aligned(2), may_alias));

constexpr int64_t kLanes = LILY_VECTOR_BYTES / 4;

LILY_INLINE Vector load(const float *p) { return *reinterpret_cast<const UnalignedVector *>(p); }
LILY_INLINE void store(float *p, Vector v) { *reinterpret_cast<UnalignedVector *>(p) = v; }
LILY_INLINE Vector broadcast(float value) { return value - Vector{}; }

// Correctly rounded, like the square root instruction of every set.
LILY_INLINE Vector square_root(Vector v) {
#if defined(__AVX512F__)
  return (Vector)_mm512_sqrt_ps((__m512)v);
#elif defined(__F16C__)
  return (Vector)_mm256_sqrt_ps((__m256)v);
#else
  for (int64_t lane = 0; lane < kLanes; ++lane) v[lane] = __builtin_sqrtf(v[lane]);
  return v;
#endif
}

// Element types in memory besides float. All arithmetic is float32.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// These conversions are one or two instructions. GCC compiles __builtin_convertvector to more: it converts the halves
// of a vector apart and puts them together.
LILY_INLINE BitVector load_bits(const void *p) {
  const HalfVector bits = *static_cast<const UnalignedHalfVector *>(p);
#if defined(__AVX512F__)
  return (BitVector)_mm512_cvtepu16_epi32((__m256i)bits);
#elif defined(__AVX2__)
  return (BitVector)_mm256_cvtepu16_epi32((__m128i)bits);
#elif defined(__SSE2__) && LILY_VECTOR_BYTES == 16
  return (BitVector)__builtin_shufflevector(bits, HalfVector{}, 0, 4, 1, 5, 2, 6, 3, 7);
#else
  return __builtin_convertvector(bits, BitVector);
#endif
}
LILY_INLINE void store_bits(void *p, BitVector bits) {
#if defined(__AVX512F__)
  const auto packed = (HalfVector)_mm512_cvtepi32_epi16((__m512i)bits);
#elif defined(__AVX2__)
  // The instruction packs the two halves of a vector apart.
  const auto halves = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
  const auto packed = (HalfVector)_mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0xd8));
#elif defined(__SSE2__) && LILY_VECTOR_BYTES == 16
  // The instruction packs signed numbers and saturates, so the lower half of each lane is extended with its sign.
  const auto extended = (__m128i)((IntVector)(bits << 16) >> 16);
  const auto packed = (HalfVector)_mm_cvtsi128_si64(_mm_packs_epi32(extended, extended));
#else
  const auto packed = __builtin_convertvector(bits, HalfVector);
#endif
  *static_cast<UnalignedHalfVector *>(p) = packed;
}

// Loads and stores the bytes of a whole vector of 16-bit numbers. The address needs their alignment only.
typedef float UnalignedBytes __attribute__((vector_size(LILY_VECTOR_BYTES), aligned(2), may_alias));
LILY_INLINE Vector load_bytes(const void *p) { return *static_cast<const UnalignedBytes *>(p); }
LILY_INLINE void store_bytes(void *p, Vector v) { *static_cast<UnalignedBytes *>(p) = v; }
#if defined(__AVX512BW__)
// Zeros in the place of the numbers whose bit is 0.
LILY_INLINE Vector load_kept_bytes(const void *p, const uint8_t *bits) {
  uint32_t kept;
  __builtin_memcpy(&kept, bits, sizeof(kept));
  return (Vector)_mm512_maskz_loadu_epi16(kept, p);
}
#endif

// bfloat16 is the upper half of a float32. All conversions round to nearest, ties to even.
#if defined(__aarch64__) && LILY_VECTOR_BYTES == 16
LILY_INLINE Vector load(const BFloat16 *p) {
  return (Vector)vshll_n_u16((uint16x4_t) * reinterpret_cast<const UnalignedHalfVector *>(p), 16);
}
#else
LILY_INLINE Vector load(const BFloat16 *p) { return (Vector)(load_bits(p) << 16); }
#endif

#if defined(__AVX512BF16__)
LILY_INLINE void store(BFloat16 *p, Vector v) {
  *reinterpret_cast<UnalignedHalfVector *>(p) = (HalfVector)_mm512_cvtneps_pbh((__m512)v);
}
LILY_INLINE void store_two(BFloat16 *p, Vector first, Vector second) {
  store_bytes(p, (Vector)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}
#else
// The bits of a bfloat16 in the upper half of each lane, of numbers that are not NaN. The lower half has any bits.
LILY_INLINE BitVector round_number_to_bfloat16(Vector v) {
  const BitVector bits = (BitVector)v;
  // If the mantissa overflows, the addition carries into the exponent, up to infinity.
  const BitVector rounded = bits + 0x7fff + ((bits >> 16) & 1);
#if defined(LILY_FLUSHES_SUBNORMALS)
  return (bits & 0x7fffffff) < 0x00800000u ? bits & 0x80000000 : rounded;
#else
  return rounded;
#endif
}
// Likewise of any numbers. A NaN becomes a quiet NaN.
LILY_INLINE BitVector round_to_bfloat16(Vector v) {
  return v == v ? round_number_to_bfloat16(v) : (BitVector)v | 0x400000;
}
LILY_INLINE void store(BFloat16 *p, Vector v) { store_bits(p, round_to_bfloat16(v) >> 16); }

// store_upper_halves stores the upper halves of the lanes of two vectors, one after the other. has_nan tells whether
// any lane of two vectors is NaN: WebAssembly selects in each lane, because the check did not pay there, and for NEON
// it is not measured.
#if defined(__AVX512F__)
LILY_INLINE void store_upper_halves(void *p, BitVector first, BitVector second) {
  alignas(64) static constexpr uint16_t kUpperHalves[] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                          23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                          45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  store_bytes(p, (Vector)_mm512_permutex2var_epi16((__m512i)first, _mm512_load_si512(kUpperHalves), (__m512i)second));
}
LILY_INLINE bool has_nan(Vector first, Vector second) {
  return _mm512_cmp_ps_mask((__m512)first, (__m512)second, _CMP_UNORD_Q) != 0;
}
#elif defined(__AVX2__)
LILY_INLINE void store_upper_halves(void *p, BitVector first, BitVector second) {
  const auto halves = _mm256_packus_epi32((__m256i)(first >> 16), (__m256i)(second >> 16));
  store_bytes(p, (Vector)_mm256_permute4x64_epi64(halves, 0xd8));
}
LILY_INLINE bool has_nan(Vector first, Vector second) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)first, (__m256)second, _CMP_UNORD_Q)) != 0;
}
#elif defined(__SSE2__) && LILY_VECTOR_BYTES == 16
LILY_INLINE void store_upper_halves(void *p, BitVector first, BitVector second) {
  store_bytes(p, (Vector)_mm_packs_epi32((__m128i)((IntVector)first >> 16), (__m128i)((IntVector)second >> 16)));
}
LILY_INLINE bool has_nan(Vector first, Vector second) {
  return _mm_movemask_ps(_mm_cmpunord_ps((__m128)first, (__m128)second)) != 0;
}
#elif LILY_VECTOR_BYTES == 16
LILY_INLINE void store_upper_halves(void *p, BitVector first, BitVector second) {
  typedef uint16_t Halves __attribute__((vector_size(16)));
  store_bytes(p, (Vector)__builtin_shufflevector((Halves)first, (Halves)second, 1, 3, 5, 7, 9, 11, 13, 15));
}
#endif

#if defined(__SSE2__) && (defined(__AVX2__) || LILY_VECTOR_BYTES == 16)
__attribute__((noinline, cold)) void store_two_with_nan(BFloat16 *p, Vector first, Vector second) {
  store_upper_halves(p, round_to_bfloat16(first), round_to_bfloat16(second));
}
// To look for a NaN in two vectors at once takes less time than to select in each lane.
LILY_INLINE void store_two(BFloat16 *p, Vector first, Vector second) {
  if (__builtin_expect(has_nan(first, second), 0)) return store_two_with_nan(p, first, second);
  store_upper_halves(p, round_number_to_bfloat16(first), round_number_to_bfloat16(second));
}
#elif LILY_VECTOR_BYTES == 16
LILY_INLINE void store_two(BFloat16 *p, Vector first, Vector second) {
  store_upper_halves(p, round_to_bfloat16(first), round_to_bfloat16(second));
}
#endif
#endif

#if defined(__AVX512F__)
LILY_INLINE Vector load(const Float16 *p) {
  return (Vector)_mm512_cvtph_ps((__m256i) * reinterpret_cast<const UnalignedHalfVector *>(p));
}
LILY_INLINE void store(Float16 *p, Vector v) {
  *reinterpret_cast<UnalignedHalfVector *>(p) = (HalfVector)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
LILY_INLINE Vector load(const Float16 *p) {
  return (Vector)_mm256_cvtph_ps((__m128i) * reinterpret_cast<const UnalignedHalfVector *>(p));
}
LILY_INLINE void store(Float16 *p, Vector v) {
  *reinterpret_cast<UnalignedHalfVector *>(p) = (HalfVector)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__aarch64__) && LILY_VECTOR_BYTES == 16
LILY_INLINE Vector load(const Float16 *p) {
  return (Vector)vcvt_f32_f16((float16x4_t) * reinterpret_cast<const UnalignedHalfVector *>(p));
}
LILY_INLINE void store(Float16 *p, Vector v) {
  *reinterpret_cast<UnalignedHalfVector *>(p) = (HalfVector)vcvt_f16_f32((float32x4_t)v);
}
#else
// float16 has 5 exponent bits (bias 15) and 10 mantissa bits; float32 has 8 (bias 127) and 23. The bits of a float16,
// shifted left by 13, form a float32 that is 2^112 times smaller. This includes subnormal numbers.
LILY_INLINE Vector load(const Float16 *p) {
  const BitVector bits = load_bits(p);
  const BitVector magnitude = (bits & 0x7fff) << 13;
  const BitVector scaled = (BitVector)((Vector)magnitude * 0x1p112f);
  const BitVector infinite = (BitVector)(magnitude >= 0x0f800000u) & 0x7f800000;  // infinity or NaN
  return (Vector)(scaled | infinite | ((bits & 0x8000) << 16));
}
LILY_INLINE void store(Float16 *p, Vector v) {
  const BitVector bits = (BitVector)v;
  const BitVector magnitude = bits & 0x7fffffff;
  // For magnitudes below 2^-14, the smallest normal float16: the last bit of 0.5f is worth 2^-24, as is the last bit of
  // a subnormal float16, so the addition rounds correctly.
  const BitVector subnormal = (BitVector)((Vector)magnitude + 0.5f) - 0x3f000000;
  BitVector normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  normal = normal < 0x7c00u ? normal : BitVector{} + 0x7c00;
  BitVector result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude > 0x7f800000u ? BitVector{} + 0x7e00 : result;
  store_bits(p, result | ((bits >> 16) & 0x8000));
}
#endif

// Stores two vectors, one after the other.
template <typename Element>
LILY_INLINE void store_two(Element *p, Vector first, Vector second) {
  store(p, first);
  store(p + kLanes, second);
}

// Loads two vectors, one after the other.
struct TwoVectors {
  Vector first, second;
};
template <typename Element>
LILY_INLINE TwoVectors load_two(const Element *p) {
  return {load(p), load(p + kLanes)};
}
// Numbers are interleaved with zeros, in each 128 bits apart: their halves are put in order before. These are three
// instructions, and two loads are four. Vectors of 512 bits are not loaded faster.
#if defined(__AVX2__) && !defined(__AVX512F__)
LILY_INLINE TwoVectors load_two(const BFloat16 *p) {
  const __m256i halves = _mm256_permute4x64_epi64((__m256i)load_bytes(p), 0xd8), zero = _mm256_setzero_si256();
  return {(Vector)_mm256_unpacklo_epi16(zero, halves), (Vector)_mm256_unpackhi_epi16(zero, halves)};
}
#elif defined(__SSE2__) && LILY_VECTOR_BYTES == 16
LILY_INLINE TwoVectors load_two(const BFloat16 *p) {
  const __m128i halves = (__m128i)load_bytes(p), zero = _mm_setzero_si128();
  return {(Vector)_mm_unpacklo_epi16(zero, halves), (Vector)_mm_unpackhi_epi16(zero, halves)};
}
#endif

// Loads a whole vector if `count` >= kLanes; otherwise the first `count` lanes, with zeros in the rest.
template <typename Element>
LILY_INLINE Vector load_up_to(const Element *p, int64_t count) {
  if (count >= kLanes) return load(p);
  Element lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

template <typename Element>
LILY_INLINE void store_up_to(Element *p, Vector v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
    return;
  }
  Element lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

LILY_INLINE float value_of(float number) { return number; }
template <typename Element>
LILY_INLINE float value_of(Element number) {
  return load_up_to(&number, 1)[0];
}

// Calls body(Element{}) with the element type of a lily_dtype. The branch is outside of the loops, so that one copy of
// a pass supports all types.
template <typename Body>
LILY_INLINE void with_element(int32_t dtype, Body body) {
  if (dtype == LILY_FLOAT32) {
    body(float{});
  } else if (dtype == LILY_BFLOAT16) {
    body(BFloat16{});
  } else {
    body(Float16{});
  }
}

// Calls body(j, count) for j = 0, kLanes, ... `count` is the constant kLanes, except for a last, partial vector, so the
// compiler removes the branches of load_up_to and store_up_to from the main loop.
template <typename Body>
LILY_INLINE void for_vectors(int64_t columns, Body body) {
  int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) body(j, kLanes);
  if (j < columns) body(j, columns - j);
}

// Sums the lanes in a fixed order (halves, quarters, ...), so that the rounding does not depend on the compiler.
LILY_INLINE float sum_lanes(Vector v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// a0 b0 a1 b1 ... from the first or the second halves of two vectors.
#if LILY_VECTOR_BYTES == 64
LILY_INLINE Vector interleave_first(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
LILY_INLINE Vector interleave_second(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif LILY_VECTOR_BYTES == 32
LILY_INLINE Vector interleave_first(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
LILY_INLINE Vector interleave_second(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
LILY_INLINE Vector interleave_first(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
LILY_INLINE Vector interleave_second(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif

// a0 b0 a1 b1 or a2 b2 a3 b3 of each four lanes of two vectors.
#if LILY_VECTOR_BYTES == 64
LILY_INLINE Vector interleave_low(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
LILY_INLINE Vector interleave_high(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
#elif LILY_VECTOR_BYTES == 32
LILY_INLINE Vector interleave_low(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
}
LILY_INLINE Vector interleave_high(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
}
#else
LILY_INLINE Vector interleave_low(Vector a, Vector b) { return interleave_first(a, b); }
LILY_INLINE Vector interleave_high(Vector a, Vector b) { return interleave_second(a, b); }
#endif

// Transposes a square of kLanes x kLanes numbers. Interleaving row i with row i + kLanes / 2 moves one bit of the row
// number into the column number; after log2(kLanes) rounds, row and column number have changed places.
LILY_INLINE void transpose_square(Vector (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLanes; round *= 2) {
    Vector next[kLanes];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_first(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_second(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// e^x for x <= 0, within 1 ulp; 0 for x < -87, where e^x is at most 1.4 times the smallest normal number. Writes
// x = n ln 2 + f with |f| <= ln 2 / 2, computes e^f with its Taylor polynomial of degree 7 (the remainder, f^8 / 8!, is
// below 6e-9) and adds n to the exponent.
LILY_INLINE Vector exp_of_nonpositive(Vector x) {
  const Vector kLog2E = broadcast(0x1.715476p+0f);
  const Vector kLn2High = broadcast(0x1.62e4p-1f), kLn2Low = broadcast(0x1.7f7d1cp-20f);
  const Vector kRound = broadcast(0x1.8p+23f);  // adding it leaves the nearest integer in the low bits
  const Vector kSmallest = broadcast(-87.0f);
  const Vector clamped = x > kSmallest ? x : kSmallest;
  const Vector n = (clamped * kLog2E + kRound) - kRound;
  const Vector f = (clamped - n * kLn2High) - n * kLn2Low;
  Vector sum = broadcast(1.0f / 5040);
  sum = sum * f + broadcast(1.0f / 720);
  sum = sum * f + broadcast(1.0f / 120);
  sum = sum * f + broadcast(1.0f / 24);
  sum = sum * f + broadcast(1.0f / 6);
  sum = sum * f + broadcast(0.5f);
  sum = sum * f + broadcast(1.0f);
  sum = sum * f + broadcast(1.0f);
  // Unsigned: the lanes behind the last expert may hold any number, and their sums may overflow.
  const BitVector exponent = (BitVector) __builtin_convertvector(n, IntVector) << 23;
  const Vector result = (Vector)((BitVector)sum + exponent);
  // A NaN stays a NaN: x == x is false for it.
  return x < kSmallest ? Vector{} : (x == x ? result : x);
}

}  // namespace
}  // namespace lily::cpu
