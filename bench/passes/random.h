// Random operands.
#pragma once

#include <stdint.h>

namespace {

// Fills `values` with numbers from -1 to 1, the same in every run. Numbers, because zeros take less power, which raises
// the clock.
inline void fill_random(float *values, int64_t count, float scale = 1.0f) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    values[i] = scale * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
  }
}

}  // namespace
