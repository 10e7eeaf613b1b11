// Loops whose time depends on one resource only: float32 or bfloat16 multiply-adds, reads, or reads and writes.
#pragma once

#include "cpu/tile.h"

namespace lily::cpu {
namespace {

float roof_multiply_add(int64_t steps) {
  Vector chains[kRoofChains];
  // Start values that depend on an argument: with constants, the compiler could evaluate the whole loop.
  for (int64_t i = 0; i < kRoofChains; ++i) chains[i] = broadcast(static_cast<float>(steps + i));
  const Operand::Element zeros[Operand::kDepth] = {};  // so that the chains keep their values
  const auto factor = Operand::step_of(zeros);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int64_t i = 0; i < kRoofChains; ++i) chains[i] = Operand::multiply_add(factor, chains[i], chains[i]);
  }
  Vector sum = {};
  for (int64_t i = 0; i < kRoofChains; ++i) sum += chains[i];
  return sum_lanes(sum);
}

float roof_read(const float *values, int64_t count) {
  Vector sums[8] = {};
  for (int64_t i = 0; i + 8 * kLanes <= count; i += 8 * kLanes) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < 8; ++j) sums[j] += load(values + i + j * kLanes);
  }
  Vector sum = {};
  for (int64_t j = 0; j < 8; ++j) sum += sums[j];
  return sum_lanes(sum);
}

float roof_update(float *values, int64_t count) {
  const Vector term = broadcast(0.001f);
  for (int64_t i = 0; i + 8 * kLanes <= count; i += 8 * kLanes) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < 8; ++j) store(values + i + j * kLanes, load(values + i + j * kLanes) + term);
  }
  return count > 0 ? values[0] : 0.0f;
}

}  // namespace
}  // namespace lily::cpu
