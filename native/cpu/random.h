// Random operands of the loops that measure roofs.
#pragma once

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

LILY_INLINE uint32_t random_bits(uint32_t &state) { return state = state * 1664525 + 1013904223; }

// Fills `values` with numbers of magnitude 0.5 to 1 and of both signs.
LILY_INLINE void fill_random(float *values, int64_t count) {
  typedef uint32_t Bits __attribute__((may_alias));
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = random_bits(state);
    reinterpret_cast<Bits *>(values)[i] = 0x3f000000u | (bits & 0x80000000u) | (bits >> 8 & 0x007fffffu);
  }
}
LILY_INLINE void fill_random(BFloat16 *values, int64_t count) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    values[i].bits = static_cast<uint16_t>(0x3f00u | (random_bits(state) >> 16 & 0x80ffu));
  }
}

}  // namespace
}  // namespace lily::cpu
