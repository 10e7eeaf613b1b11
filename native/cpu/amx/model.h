// A model of the tile registers of hardware.h that gives the same bits on any processor, so that the AMX passes can be
// tested everywhere. It requires round to nearest and IEEE float and double.
//
// What TDPBF16PS computes: the even and the odd k are two chains of fused multiply-adds from +0; their sum is added to
// the old value. Subnormal operands count as zeros of their sign, and a result that is subnormal after rounding becomes
// zero. A NaN is passed on and becomes quiet: the first of (lhs, rhs, sum).
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

struct ModelTile {
  static constexpr int64_t kRows = 16;

  uint32_t rows[kRows][16];
};

// TDPBF16PS. Compiled once, and for speed, while the passes that call it are compiled for size.
void model_dot(ModelTile &sums, const ModelTile &lhs, const ModelTile &rhs);

namespace {

class Tiles {
 public:
  static void configure() { __builtin_memset(registers(), 0, 8 * sizeof(ModelTile)); }
  static void release() {}

  template <int kTile>
  static void zero() {
    __builtin_memset(&registers()[kTile], 0, sizeof(ModelTile));
  }
  template <int kTile>
  static void load(const void *rows, int64_t pitch) {
    for (int64_t i = 0; i < ModelTile::kRows; ++i) {
      __builtin_memcpy(registers()[kTile].rows[i], static_cast<const char *>(rows) + i * pitch, 64);
    }
  }
  template <int kTile>
  static void load_streamed(const void *rows, int64_t pitch) {
    load<kTile>(rows, pitch);
  }
  template <int kTile>
  static void store(void *rows, int64_t pitch) {
    for (int64_t i = 0; i < ModelTile::kRows; ++i) {
      __builtin_memcpy(static_cast<char *>(rows) + i * pitch, registers()[kTile].rows[i], 64);
    }
  }
  template <int kSums, int kLhs, int kRhs>
  static void dot() {
    model_dot(registers()[kSums], registers()[kLhs], registers()[kRhs]);
  }

 private:
  static ModelTile *registers() {
    static thread_local ModelTile tiles[8];
    return tiles;
  }
};

}  // namespace
}  // namespace lily::cpu
