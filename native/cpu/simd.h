// One vector type for every instruction set: GCC's and Clang's vector extensions. A translation unit sets
// LILY_VECTOR_BYTES and its compiler flags; everything here has internal linkage, so that no code compiled for a wide
// instruction set is ever linked into a narrow one. For the same reason kernel files include no C++ library header.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {
namespace {

typedef float Vector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef int32_t IntVector __attribute__((vector_size(LILY_VECTOR_BYTES)));
typedef float UnalignedVector __attribute__((vector_size(LILY_VECTOR_BYTES), aligned(4), may_alias));

constexpr int64_t kLanes = LILY_VECTOR_BYTES / 4;

LILY_INLINE Vector load(const float *p) { return *reinterpret_cast<const UnalignedVector *>(p); }
LILY_INLINE void store(float *p, Vector v) { *reinterpret_cast<UnalignedVector *>(p) = v; }
LILY_INLINE Vector broadcast(float value) { return value - Vector{}; }

// Whole vectors where `count` allows it; else the first `count` lanes, zeros in the rest.
LILY_INLINE Vector load_up_to(const float *p, int64_t count) {
  if (count >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

LILY_INLINE void store_up_to(float *p, Vector v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
    return;
  }
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// body(j, count) for j = 0, kLanes, ...: count is the constant kLanes but for a last, partial vector, so that the loads
// and stores in body need no branch where it matters.
template <typename Body>
LILY_INLINE void for_vectors(int64_t columns, Body body) {
  int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) body(j, kLanes);
  if (j < columns) body(j, columns - j);
}

// The lanes in a fixed order: halves, quarters, ... so that the rounding does not depend on the compiler.
LILY_INLINE float sum_lanes(Vector v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// a0 b0 a1 b1 ... of the first or of the second halves of two vectors.
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

// Row i of a square block becomes column i. Interleaving row i with row i + kLanes / 2 shifts one bit of the row number
// into the column number; after log2(kLanes) rounds they have changed places.
LILY_INLINE void transpose_block(Vector (&block)[kLanes]) {
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLanes; round *= 2) {
    Vector next[kLanes];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_first(block[i], block[i + kLanes / 2]);
      next[2 * i + 1] = interleave_second(block[i], block[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) block[i] = next[i];
  }
}

// e^x for x <= 0, within 1 ulp; 0 below the smallest normal result. x = n ln 2 + f with |f| <= ln 2 / 2, e^f from its
// Taylor polynomial of degree 7 (its remainder, f^8 / 8!, is below 6e-9), 2^n put into the exponent.
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
  const IntVector exponent = __builtin_convertvector(n, IntVector) << 23;
  const Vector result = (Vector)((IntVector)sum + exponent);
  // Written so that a NaN, for which the comparison is false, stays a NaN.
  return x < kSmallest ? Vector{} : (x == x ? result : x);
}

}  // namespace
}  // namespace lily::cpu
