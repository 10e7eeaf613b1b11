// Dropout: which elements of x a call drops. Recomputed wherever x is read or dx is written, and never stored. See
// docs/math.md, "Dropout".
#pragma once

#include <stdint.h>

namespace lily::cuda {

// Philox 4x32-10: random numbers that are a function of a counter and a key (Salmon et al., "Parallel Random Numbers:
// As Easy as 1, 2, 3", 2011).
__host__ __device__ constexpr uint4 philox(uint4 counter, uint2 key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xd2511f53} * counter.x, second = uint64_t{0xcd9e8d57} * counter.z;
    counter = {static_cast<uint32_t>(second >> 32) ^ counter.y ^ key.x, static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter.w ^ key.y, static_cast<uint32_t>(first)};
    key = {key.x + 0x9e3779b9, key.y + 0xbb67ae85};
  }
  return counter;
}

// The known answers of Random123 (kat_vectors).
constexpr bool philox_gives(uint4 counter, uint2 key, uint4 answer) {
  const uint4 words = philox(counter, key);
  return words.x == answer.x && words.y == answer.y && words.z == answer.z && words.w == answer.w;
}
static_assert(philox_gives({}, {}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
static_assert(philox_gives({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
                           {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
static_assert(philox_gives({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
                           {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));

struct Dropout {
  const uint32_t *draw;  // seed and position, of two words each, the low one first; may be null without dropout
  uint32_t threshold;    // n: an element is dropped if its number of 16 bits is below it; 0: no dropout

  __device__ bool drops() const { return threshold != 0; }
};

// The mask of a call that drops elements. It has the draw in registers: made where elements are masked, it costs the
// other code none.
class DropoutMask {
 public:
  __device__ explicit DropoutMask(const Dropout &dropout)
      : key_{dropout.draw[0], dropout.draw[1]},
        position_{dropout.draw[2], dropout.draw[3]},
        threshold_(dropout.threshold << 16) {}

  // Bits of the 16-byte vector of elements of type T at (row, column): ones where an element is kept. The counter of
  // Philox has 8 columns, which are one vector of 16-bit elements, and two of float32.
  template <typename T>
  __device__ uint4 kept(int64_t row, int column) const {
    const uint4 counter = {static_cast<uint32_t>(column) / 8, static_cast<uint32_t>(row), position_.x, position_.y};
    const uint4 numbers = philox(counter, key_);
    if constexpr (sizeof(T) == 2)
      return {kept_pair(numbers.x), kept_pair(numbers.y), kept_pair(numbers.z), kept_pair(numbers.w)};
    const bool is_first = column % 8 == 0;
    const uint32_t low = is_first ? numbers.x : numbers.z, high = is_first ? numbers.y : numbers.w;
    return {keeps(low << 16) ? ~0u : 0, keeps(low) ? ~0u : 0, keeps(high << 16) ? ~0u : 0, keeps(high) ? ~0u : 0};
  }

 private:
  // Tests the number in the upper half of a word, whatever the lower half is.
  __device__ bool keeps(uint32_t word) const { return word >= threshold_; }
  __device__ uint32_t kept_pair(uint32_t word) const {
    return (keeps(word << 16) ? 0xffffu : 0) | (keeps(word) ? 0xffff0000u : 0);
  }

  const uint2 key_, position_;
  const uint32_t threshold_;  // in the upper half
};

// q: the factor on h and dh of a call that drops elements with this threshold; 1 without dropout.
constexpr float dropout_factor(uint32_t threshold) { return 65536.0f / static_cast<float>(65536 - threshold); }

// The bits of `vector` where the bits of `kept` are 1, and of `other` elsewhere.
__device__ inline uint4 select(const uint4 &kept, const uint4 &vector, const uint4 &other) {
  return {(vector.x & kept.x) | (other.x & ~kept.x), (vector.y & kept.y) | (other.y & ~kept.y),
          (vector.z & kept.z) | (other.z & ~kept.z), (vector.w & kept.w) | (other.w & ~kept.w)};
}

// Whether element number `offset` + v of a vector is kept. `offset`: 0 or 4.
template <typename T>
__device__ inline bool is_kept(const uint4 &kept, int offset, int v) {
  if constexpr (sizeof(T) == 4) return (v < 2 ? v == 0 ? kept.x : kept.y : v == 2 ? kept.z : kept.w) != 0;
  const uint32_t pair = offset == 0 ? v < 2 ? kept.x : kept.y : v < 2 ? kept.z : kept.w;
  return (v % 2 == 0 ? pair & 0xffff : pair >> 16) != 0;
}

}  // namespace lily::cuda
