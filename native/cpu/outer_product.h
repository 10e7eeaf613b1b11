// The sum of outer products over tokens:  sums += lhs^T rhs      (D = h^T dy, dA = dh^T x, dR = dl^T h)
//
//   lhs    tokens x rows, given as the left operand that lhs_of_columns returns
//   rhs    tokens x columns, pitched
//   sums   float32 panels [panel][rows][width]
//
// rhs is read once from memory, lhs once per panel, from the cache. Sums are read and written once per call. A sum over
// several pieces of the tokens (TokenPieces) adds the sums of the pieces in order. Arrays of sums are whole vectors.
#pragma once

#include "cpu/pack.h"

namespace lily::cpu {
namespace {

// Whether a copy of a panel pays although the register tile could read it in place, once for each tile of the `rows` of
// the sums. In Node.js arrays begin 16 bytes after a cache line, so that every vector of 64 bytes is in two of them.
// The rows of a narrow panel are short and, in a long matrix, each in a page of its own. With fewer rows of sums the
// copy costs more than it saves (native/cpu/STEPS.md, "Zen 5").
LILY_INLINE bool copy_pays(int64_t rows, const lily_matrix &panel) {
  constexpr int64_t kPageFloats = 1024, kShortRun = 64;
  const bool is_scattered = kPanel < kShortRun && panel.pitch >= kPageFloats;
  const bool is_aligned = reinterpret_cast<uintptr_t>(panel.data) % sizeof(Vector) == 0;
  return is_scattered ? rows >= 48 : !is_aligned && rows >= 128;
}

// A panel of rhs that the register tile cannot, or should not, read in place is packed to `rhs_scratch`, which holds
// kPanel floats per step of tokens. A row of rhs counts as zero where `keeps` is 0, because 0 * NaN is NaN; null keeps
// all rows. An element counts as zero where a mask drops it; a mask replaces `keeps`.
template <typename T>
void add_outer_product(int64_t rows, int64_t tokens, const LeftOperand<T> &lhs, const lily_matrix &rhs, int64_t columns,
                       float *sums, float *rhs_scratch, const uint8_t *keeps = nullptr, const Mask &mask = {}) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    const int64_t width = round_up(panel, kLanes);
    const lily_matrix panel_of_rhs = submatrix(rhs, 0, p * kPanel);
    RightOperand operand = {static_cast<const float *>(panel_of_rhs.data), rhs.pitch};
    if (mask.bits != nullptr) {
      pack_kept<T>(tokens, panel, panel_of_rhs, mask.from_column(p * kPanel), rhs_scratch, width);
      operand = {rhs_scratch, width};
    } else if (T::kDepth > 1 || rhs.dtype != LILY_FLOAT32 || panel != width || keeps != nullptr ||
               copy_pays(rows, panel_of_rhs)) {
      pack<T>(tokens, panel, panel_of_rhs, 1.0f, rhs_scratch, width, keeps);
      operand = {rhs_scratch, width};
    }
    multiply_rows({rows, width, steps_of<T>(tokens)}, lhs, operand, {sums + p * kPanel * rows, width}, true);
  }
}

// sums += addends
LILY_INLINE void add_floats(int64_t count, const float *addends, float *sums) {
  for_vectors(count, [=](int64_t i, int64_t)
                         __attribute__((always_inline)) { store(sums + i, load(sums + i) + load(addends + i)); });
}

// sums = the sum of `count` arrays in order, which are `pitch` floats apart.
LILY_INLINE void add_partials(int64_t floats, const float *partials, int64_t pitch, int64_t count, float *sums) {
  for_vectors(floats, [=](int64_t i, int64_t) __attribute__((always_inline)) {
    Vector sum = load(partials + i);
    for (int64_t partial = 1; partial < count; ++partial) sum += load(partials + partial * pitch + i);
    store(sums + i, sum);
  });
}

}  // namespace
}  // namespace lily::cpu
