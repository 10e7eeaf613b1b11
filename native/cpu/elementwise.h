// Functions of each element, and sums of rows, in float32; lily_elementwise in lily/cpu.h has the formulas.
#pragma once

#include <type_traits>

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

template <typename Function>
LILY_INLINE void map_tile(const lily_elementwise &call, const ElementwiseTile &tile, Function function) {
  const int64_t columns = tile.column_end - tile.column;
  for (int64_t i = tile.row; i < tile.row_end; ++i) {
    const float *const a = static_cast<const float *>(call.a.data) + i * call.a.pitch;
    const float *const b = static_cast<const float *>(call.b.data) + i * call.b.pitch;
    float *const y = static_cast<float *>(call.y.data) + i * call.y.pitch + tile.column;
    const auto map = [&](auto a_repeats, auto b_repeats) __attribute__((always_inline)) {
      const Vector of_a = a_repeats ? broadcast(*a) : Vector{}, of_b = b_repeats ? broadcast(*b) : Vector{};
      for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
        const Vector left = a_repeats ? of_a : load_up_to(a + tile.column + j, count);
        const Vector right = b_repeats ? of_b : load_up_to(b + tile.column + j, count);
        store_up_to(y + j, function(left, right), count);
      });
    };
    if (call.a_repeats != 0 && call.b_repeats != 0) {
      map(std::true_type{}, std::true_type{});
    } else if (call.a_repeats != 0) {
      map(std::true_type{}, std::false_type{});
    } else if (call.b_repeats != 0) {
      map(std::false_type{}, std::true_type{});
    } else {
      map(std::false_type{}, std::false_type{});
    }
  }
}

LILY_INLINE Vector sigmoid(Vector x) {
  const Vector exponential = exp_of_nonpositive(x < Vector{} ? x : -x);
  const Vector one = broadcast(1.0f);
  return (x < Vector{} ? exponential : one) / (one + exponential);
}

LILY_INLINE float sum_of_row(const float *row, int64_t columns) {
  constexpr int64_t kChains = 4;  // independent sums, to hide the latency of the additions
  Vector sums[kChains] = {};
  int64_t j = 0;
  for (; j + kChains * kLanes <= columns; j += kChains * kLanes) {
#pragma GCC unroll 4
    for (int64_t c = 0; c < kChains; ++c) sums[c] += load(row + j + c * kLanes);
  }
  for_vectors(columns - j, [&](int64_t offset, int64_t count)
                               __attribute__((always_inline)) { sums[0] += load_up_to(row + j + offset, count); });
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void elementwise(const lily_elementwise &call, const ElementwiseTile &tile) {
  switch (call.function) {
    case LILY_ELEMENTWISE_ADD:
      return map_tile(call, tile, [](Vector a, Vector b) __attribute__((always_inline)) { return a + b; });
    case LILY_ELEMENTWISE_SUBTRACT:
      return map_tile(call, tile, [](Vector a, Vector b) __attribute__((always_inline)) { return a - b; });
    case LILY_ELEMENTWISE_MULTIPLY:
      return map_tile(call, tile, [](Vector a, Vector b) __attribute__((always_inline)) { return a * b; });
    case LILY_ELEMENTWISE_DIVIDE:
      return map_tile(call, tile, [](Vector a, Vector b) __attribute__((always_inline)) { return a / b; });
    case LILY_ELEMENTWISE_SIGMOID: {
      lily_elementwise of_a = call;
      of_a.b = call.a;
      of_a.b_repeats = call.a_repeats;
      return map_tile(of_a, tile, [](Vector a, Vector) __attribute__((always_inline)) { return sigmoid(a); });
    }
    default:
      for (int64_t i = tile.row; i < tile.row_end; ++i) {
        const float *const row = static_cast<const float *>(call.a.data) + i * call.a.pitch;
        static_cast<float *>(call.y.data)[i * call.y.pitch] = call.scale * sum_of_row(row, call.columns);
      }
  }
}

}  // namespace
}  // namespace lily::cpu
