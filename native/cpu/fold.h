// db_e (+)= sum over layers and their groups of w_ge D_g, a slab of d_out at a time. Each element of db is read and
// written once; the sum runs in the order of the layers.
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

void fold(const lily_fold &call, const Slabs &slabs, int64_t slab) {
  const int64_t begin = slabs.begin(slab), end = slabs.end(slab);
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
