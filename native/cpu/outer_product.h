// The sum of outer products over tokens:  sums += lhs^T rhs      (D = h^T dy, dA = dh^T x, dR = dl^T h)
//
//   lhs    tokens x rows, given as the left operand that lhs_of_columns returns
//   rhs    tokens x columns, pitched
//   sums   float32 panels [panel][rows][width]
//
// rhs is read once from memory, lhs once per panel, from the cache. Sums are read and written once per call.
#pragma once

#include "cpu/pack.h"

namespace lily::cpu {
namespace {

// A panel of rhs that the register tile cannot read in place is packed to `rhs_scratch`, which holds kPanel floats per
// step of tokens. A row of rhs counts as zero where `keeps` is 0, because 0 * NaN is NaN; null keeps all rows.
template <typename T>
void add_outer_product(int64_t rows, int64_t tokens, const LeftOperand<T> &lhs, const lily_matrix &rhs, int64_t columns,
                       float *sums, float *rhs_scratch, const uint8_t *keeps = nullptr) {
  for (int64_t p = 0; p < panel_count(columns); ++p) {
    const int64_t panel = panel_columns(columns, p);
    const int64_t width = round_up(panel, kLanes);
    const lily_matrix panel_of_rhs = submatrix(rhs, 0, p * kPanel);
    const float *panel_data = static_cast<const float *>(panel_of_rhs.data);
    int64_t panel_pitch = rhs.pitch;
    if (T::kDepth > 1 || rhs.dtype != LILY_FLOAT32 || panel != width || keeps != nullptr) {
      pack<T>(tokens, panel, panel_of_rhs, 1.0f, rhs_scratch, width, keeps);
      panel_data = rhs_scratch;
      panel_pitch = width;
    }
    multiply_rows(rows, width / kLanes, steps_of<T>(tokens), lhs, panel_data, panel_pitch, sums + p * kPanel * rows,
                  width, true);
  }
}

// sums += addends
LILY_INLINE void add_floats(int64_t count, const float *addends, float *sums) {
  for_vectors(count, [=](int64_t i, int64_t)
                         __attribute__((always_inline)) { store(sums + i, load(sums + i) + load(addends + i)); });
}

}  // namespace
}  // namespace lily::cpu
