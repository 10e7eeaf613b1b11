// The tile registers of Intel AMX. There are eight, each with 16 rows of 64 bytes. They are always used whole: ragged
// edges are padded with zeros in memory, so that one configuration serves every product.
//
//   TileScope               configures the registers of this thread; releases them, and their state in a task switch
//   Tiles::zero<T>()        T = 0
//   Tiles::load<T>          T = 16 rows of 64 bytes, `pitch` bytes apart, at any address
//   Tiles::load_streamed<T> the same, without keeping in the L1 cache what was read
//   Tiles::store<T>
//   Tiles::dot<S, L, R>()   S[i][j] += sum over k < 16 of L[i][2k] R[k][2j] + L[i][2k+1] R[k][2j+1]
//
// The rows of L are 32 neighbouring bfloat16 of a row-major matrix. R holds pairs of k: [k / 2][column][k % 2]. S is
// float32. model.h has the same functions for any processor.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {
namespace {

struct Tiles {
  static LILY_INLINE void configure() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    __asm__ __volatile__("ldtilecfg %0" ::"m"(configuration));
  }
  static LILY_INLINE void release() { __asm__ __volatile__("tilerelease"); }

  template <int kTile>
  static LILY_INLINE void zero() {
    __asm__ __volatile__("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static LILY_INLINE void load(const void *rows, int64_t pitch) {
    __asm__ __volatile__("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(rows), "r"(pitch) : "memory");
  }
  template <int kTile>
  static LILY_INLINE void load_streamed(const void *rows, int64_t pitch) {
    __asm__ __volatile__("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(rows), "r"(pitch) : "memory");
  }
  template <int kTile>
  static LILY_INLINE void store(void *rows, int64_t pitch) {
    __asm__ __volatile__("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(rows), "r"(pitch) : "memory");
  }
  template <int kSums, int kLhs, int kRhs>
  static LILY_INLINE void dot() {
    __asm__ __volatile__("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLhs), "i"(kRhs));
  }
};

}  // namespace
}  // namespace lily::cpu
