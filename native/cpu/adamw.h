// AdamW: the sum of squares for the norm of all gradients, and the update. lily/backend.h has the formulas
// (lily_adamw); optimiser.cc cuts the parameters into splits of elements.
//
//   value       [count], float32, bfloat16 or float16; in and out
//   grad        [count], the type of value, or float32
//   exp_avg     [count], float32: m; in and out
//   exp_avg_sq  [count], float32: v; in and out
//
// The sum of squares reads grad once. The update is one pass: it reads all four arrays once and writes all but grad
// once.
#pragma once

#include "cpu/simd.h"

namespace lily::cpu {
namespace {

// In float64, so that squares do not overflow and the order of the additions costs no accuracy.
double sum_of_squares(const void *values, int32_t dtype, int64_t begin, int64_t end) {
  typedef double WideVector __attribute__((vector_size(2 * LILY_VECTOR_BYTES)));
  constexpr int64_t kChains = 4;  // independent sums, to hide the latency of the additions
  WideVector sums[kChains] = {};
  with_element(dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *p = static_cast<const decltype(element) *>(values);
    const auto add = [&](WideVector &sum, Vector v) __attribute__((always_inline)) {
      const WideVector wide = __builtin_convertvector(v, WideVector);
      sum += wide * wide;
    };
    int64_t i = begin;
    for (; i + kChains * kLanes <= end; i += kChains * kLanes) {
#pragma GCC unroll 4
      for (int64_t c = 0; c < kChains; ++c) add(sums[c], load(p + i + c * kLanes));
    }
    for_vectors(end - i, [&](int64_t offset, int64_t count)
                             __attribute__((always_inline)) { add(sums[0], load_up_to(p + i + offset, count)); });
  });
  const WideVector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += all[lane];
  return sum;
}

template <typename Value, typename Grad>
LILY_INLINE void update_elements(const AdamWUpdate &update, Value *value, const Grad *grad, int64_t begin,
                                 int64_t end) {
  const AdamWStep step = update.step;
  const AdamWRate rate = update.rate;
  float *const exp_avg = update.parameter->exp_avg, *const exp_avg_sq = update.parameter->exp_avg_sq;
  for_vectors(end - begin, [&](int64_t offset, int64_t count) __attribute__((always_inline)) {
    const int64_t i = begin + offset;
    const Vector g = load_up_to(grad + i, count) * update.clip;
    Vector m = load_up_to(exp_avg + i, count), v = load_up_to(exp_avg_sq + i, count);
    m = step.beta1 * m + step.beta1_rest * g;
    v = step.beta2 * v + step.beta2_rest * g * g;
    const Vector change = rate.step_size * m / (square_root(v) * step.root_factor + step.eps);
    store_up_to(exp_avg + i, m, count);
    store_up_to(exp_avg_sq + i, v, count);
    store_up_to(value + i, rate.keep * load_up_to(value + i, count) - change, count);
  });
}

void adamw(const AdamWUpdate &update, int64_t begin, int64_t end) {
  const lily_adamw_parameter &parameter = *update.parameter;
  with_element(parameter.value_dtype, [&](auto element) __attribute__((always_inline)) {
    using Value = decltype(element);
    auto *const value = static_cast<Value *>(parameter.value);
    if (parameter.grad_dtype == LILY_FLOAT32) {
      update_elements(update, value, static_cast<const float *>(parameter.grad), begin, end);
    } else {
      update_elements(update, value, static_cast<const Value *>(parameter.grad), begin, end);
    }
  });
}

}  // namespace
}  // namespace lily::cpu
