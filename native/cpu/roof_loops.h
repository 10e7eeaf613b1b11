// Loops whose time depends on one resource only: multiply-adds of the large products, reads, or reads and writes.
// roofs.cc calls them. All operate on random numbers: operands whose bits do not change, such as zeros, take less
// power, and some processors then run at a higher clock than any real product reaches.
//
// A set of instructions that multiplies in another way (a matrix unit) has a function of its own in place of
// roof_products; its table of kernels names the function and the FLOPs of one step.
#pragma once

#include "cpu/random.h"
#include "cpu/tile.h"

namespace lily::cpu {
namespace {

LILY_INLINE float negated(float value) { return -value; }
LILY_INLINE BFloat16 negated(BFloat16 value) { return {static_cast<uint16_t>(value.bits ^ 0x8000u)}; }

// Independent chains of multiply-adds, enough to hide the latency: more than the product of latency and number of units
// on any processor, by so much that it does not matter which unit an instruction waits for. With the factors and two
// right operands they fit in the registers.
constexpr int64_t kRoofChains = LILY_VECTOR_REGISTERS == 32 ? 24 : 12;
// Left operands of a step. The second half repeats the first with the opposite sign, so the sums stay bounded.
constexpr int64_t kRoofFactors = 16;
constexpr double kRoofStepFlops = 2.0 * kRoofFactors * kRoofChains * kLanes * Operand::kDepth;

// Multiply-adds in registers, as the register tile issues them: the fastest rate of the products of this instruction
// set.
float roof_products(int64_t steps) {
  typename Operand::Element factors[kRoofFactors * Operand::kDepth], values[2 * kLanes * Operand::kDepth];
  constexpr int64_t kHalf = kRoofFactors / 2 * Operand::kDepth;
  fill_random(factors, kHalf);
  for (int64_t i = 0; i < kHalf; ++i) factors[kHalf + i] = negated(factors[i]);
  fill_random(values, 2 * kLanes * Operand::kDepth);
  const Vector rhs[2] = {load_bytes(values), load_bytes(values + kLanes * Operand::kDepth)};
  Vector chains[kRoofChains];
  // Start values that depend on an argument: with constants, the compiler could evaluate the whole loop.
  for (int64_t i = 0; i < kRoofChains; ++i) chains[i] = broadcast(1.0f / static_cast<float>(steps + i));
  for (int64_t step = 0; step < steps; ++step) {
    // The compiler must assume new factors in every step. Otherwise it may compute the products before the loop.
    __asm__ __volatile__("" : : "r"(factors) : "memory");
#pragma GCC unroll 16
    for (int64_t k = 0; k < kRoofFactors; ++k) {
      const auto factor = Operand::step_of(factors + k * Operand::kDepth);
#pragma GCC unroll 24
      for (int64_t i = 0; i < kRoofChains; ++i) chains[i] = Operand::multiply_add(factor, rhs[i % 2], chains[i]);
    }
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
