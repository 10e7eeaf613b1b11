// Fold: adds up the deferred gradients of b of several layers. A task computes one tile of d_out.
//
//   dB_e (+)= sum over layers, sum over groups g, of w_ge D_g
//
//   partial  [groups][r][d_out], contiguous, float32: D_g. Without weights [E][r][d_out]: sum_g w_ge D_g
//   weights  [groups][E], or null
//   db       E r x d_out, pitched
//
// Layers and groups are added in order. Each element of db is written once, and read once if it is accumulated; each
// D_g is read once per expert.
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

void fold(const lily_fold &call, const Partition &tiles, int64_t tile) {
  const int64_t begin = tiles.begin(tile), end = tiles.end(tile);
  with_element(call.db.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t e = 0; e < call.experts; ++e) {
      for (int64_t i = 0; i < call.rank; ++i) {
        auto *out = static_cast<decltype(element) *>(call.db.data) + (e * call.rank + i) * call.db.pitch;
        for_vectors(end - begin, [&](int64_t offset, int64_t count) __attribute__((always_inline)) {
          const int64_t j = begin + offset;
          Vector sum = call.db.accumulate != 0 ? load_up_to(out + j, count) : Vector{};
          for (int64_t l = 0; l < call.layer_count; ++l) {
            const lily_deferred &layer = call.layers[l];
            if (layer.weights == nullptr) {
              sum += load_up_to(layer.partial + (e * call.rank + i) * call.d_out + j, count);
              continue;
            }
            for (int64_t g = 0; g < layer.groups; ++g) {
              sum += layer.weights[g * call.experts + e] *
                     load_up_to(layer.partial + (g * call.rank + i) * call.d_out + j, count);
            }
          }
          store_up_to(out + j, sum, count);
        });
      }
    }
  });
}

}  // namespace
}  // namespace lily::cpu
