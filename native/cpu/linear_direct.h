// The product of a frozen linear layer for few tokens: y (+)= x W^T + bias, and dx (+)= dy W. The weight is read once,
// in place, and is not packed: memory bandwidth is the limit, and packing a weight would cost more than multiplying it.
//
//   linear_direct  out (+)= in rhs + bias. Tasks: tiles of columns
//
// The sums of a chunk of k are as in blocked/linear.h, with the same bits: a chain of multiply-adds in the order of
// k that starts at zero, and the chunks are added in order.
#pragma once

#include "cpu/blocked/linear.h"
#include "cpu/pack.h"

namespace lily::cpu {
namespace {

// Floats per token of the sums of a task.
LILY_INLINE int64_t direct_pitch(const LinearPass &pass) { return round_up(pass.widest_tile, kLanes); }

// The rows of `in`, if they are copied; the sums of all chunks, and of one.
int64_t linear_direct_scratch(const LinearPass &pass) {
  return pass.call->problem.tokens * (round_up(pass.depth, kLanes) + 2 * direct_pitch(pass));
}

// The sum of one vector of columns and `steps` <= kSteps steps.
template <int64_t kSteps>
LILY_INLINE Vector add_steps(int64_t steps, const Operand::Element *lhs, const Vector (&rhs)[kSteps], Vector sum) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kSteps; ++i) {
    if (i < steps) sum = Operand::multiply_add(Operand::step_of(lhs + i * Operand::kDepth), rhs[i], sum);
  }
  return sum;
}

// Calls body(count), where the compiler knows the count if it is `whole`.
template <int64_t kWhole, typename Body>
LILY_INLINE void with_count(int64_t count, const Body &body) {
  if (count >= kWhole) {
    body(kWhole);
  } else {
    body(count);
  }
}

// The rows of W are columns of `out`: squares of kLanes rows by kLanes steps are transposed in registers. `weight`
// starts at the first row of the task, and `sums` has the old contents and the bias if `started`.
template <typename E>
void add_direct_forward(const LinearPass &pass, const E *weight, int64_t columns, const LeftOperand<Operand> &in,
                        bool started, float *sums) {
  // Bytes of each row that are loaded ahead: in total twice of what the memory delivers within its latency.
  constexpr int64_t kAhead = 512 / static_cast<int64_t>(sizeof(E));
  const int64_t tokens = pass.call->problem.tokens, weight_pitch = pass.call->weight.pitch;
  const int64_t chunk_steps = kBlocking.chunk_depth / Operand::kDepth, steps = steps_of<Operand>(pass.depth);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t rows = minimum(kLanes, columns - j);
    const E *const corner = weight + j * weight_pitch;
    for (int64_t chunk = 0; chunk < steps; chunk += chunk_steps) {
      Vector chunk_sums[kDirectLinearTokens] = {};
      const int64_t end = minimum(steps, chunk + chunk_steps);
      const auto add_square = [&](int64_t step, int64_t row_count, int64_t depth) __attribute__((always_inline)) {
        Vector square[kLanes];
        const int64_t k = step * Operand::kDepth;
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes; ++i) {
          square[i] = Vector{};
          if (i >= row_count) continue;
          const E *const row = corner + i * weight_pitch + k;
          square[i] = Operand::load_steps(row, depth, 1.0f);
          __builtin_prefetch(row + kAhead);
        }
        transpose_square(square);
        for (int64_t t = 0; t < tokens; ++t) {
          chunk_sums[t] = add_steps(steps_of<Operand>(depth), in.data + t * in.row_stride + k, square, chunk_sums[t]);
        }
      };
      constexpr int64_t kDepth = kLanes * Operand::kDepth;
      for (int64_t step = chunk; step < end; step += kLanes) {
        const int64_t depth =
            minimum(pass.depth, chunk * Operand::kDepth + kBlocking.chunk_depth) - step * Operand::kDepth;
        if (rows == kLanes && depth >= kDepth) {
          add_square(step, kLanes, kDepth);
        } else {
          add_square(step, rows, minimum(kDepth, depth));
        }
      }
      for (int64_t t = 0; t < tokens; ++t) {
        float *const sum = sums + t * direct_pitch(pass) + j;
        store(sum, started || chunk > 0 ? load(sum) + chunk_sums[t] : chunk_sums[t]);
      }
    }
  }
}

// The rows of W are k. `chunk_sums` is an array like `sums`.
template <typename E>
void add_direct_backward(const LinearPass &pass, const E *weight, int64_t columns, const LeftOperand<Operand> &in,
                         bool started, float *sums, float *chunk_sums) {
  constexpr int64_t kSteps = 8;  // whose vectors stay in registers while the tokens pass
  constexpr int64_t kRows = kSteps * Operand::kDepth;
  const int64_t tokens = pass.call->problem.tokens, weight_pitch = pass.call->weight.pitch;
  const int64_t sum_floats = tokens * direct_pitch(pass);
  for (int64_t chunk = 0; chunk < pass.depth; chunk += kBlocking.chunk_depth) {
    const int64_t end = minimum(pass.depth, chunk + kBlocking.chunk_depth);
    clear(chunk_sums, sum_floats);
    for (int64_t k = chunk; k < end; k += kRows) {
      const E *const rows = weight + k * weight_pitch;
      with_count<kRows>(end - k, [&](int64_t row_count) __attribute__((always_inline)) {
        for_vectors(columns, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
          Vector rhs[kSteps];
#pragma GCC unroll 8
          for (int64_t i = 0; i < kSteps; ++i) {
            Vector values[Operand::kDepth];
#pragma GCC unroll 2
            for (int64_t depth = 0; depth < Operand::kDepth; ++depth) {
              const int64_t row = i * Operand::kDepth + depth;
              values[depth] = row < row_count ? load_up_to(rows + row * weight_pitch + j, count) : Vector{};
              __builtin_prefetch(rows + (kRows + row) * weight_pitch + j);
            }
            rhs[i] = Operand::interleave(values);
          }
          for (int64_t t = 0; t < tokens; ++t) {
            float *const sum = chunk_sums + t * direct_pitch(pass) + j;
            store(sum, add_steps(steps_of<Operand>(row_count), in.data + t * in.row_stride + k, rhs, load(sum)));
          }
        });
      });
    }
    for (int64_t i = 0; i < sum_floats; i += kLanes) {
      store(sums + i, started || chunk > 0 ? load(sums + i) + load(chunk_sums + i) : load(chunk_sums + i));
    }
  }
}

void linear_direct(const LinearPass &pass, int64_t tile, float *scratch) {
  const lily_linear &call = *pass.call;
  const int64_t first = pass.first_column(tile), columns = pass.first_column(tile + 1) - first;
  const int64_t tokens = call.problem.tokens, pitch = direct_pitch(pass);
  float *const sums = scratch, *const chunk_sums = sums + tokens * pitch, *const copy = chunk_sums + tokens * pitch;
  const LeftOperand<Operand> in = lhs_of_rows<Operand>(call.x, tokens, pass.depth, copy);
  const lily_matrix out = submatrix(call.y, 0, first);
  const lily_matrix bias = call.bias.data == nullptr ? call.bias : submatrix(call.bias, 0, first);
  const bool started = blocked::start_sums(tokens, columns, out, bias, sums, pitch);
  with_element(call.weight.dtype, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    const bool transposed = call.problem.transposed != 0;
    const auto *const weight =
        static_cast<const E *>(submatrix(call.weight, transposed ? 0 : first, transposed ? first : 0).data);
    if (transposed) {
      add_direct_backward(pass, weight, columns, in, started, sums, chunk_sums);
    } else {
      add_direct_forward(pass, weight, columns, in, started, sums);
    }
  });
  write_rows(tokens, columns, sums, pitch, 1.0f, out, false);
}

}  // namespace
}  // namespace lily::cpu
