// Decisions of a launch plan: the formulation, the engine and the split of the work. Host code that does not use CUDA.
#pragma once

#include <stdint.h>

#include <algorithm>

#include "core/problem.h"
#include "core/workspace.h"
#include "cuda/device.h"
#include "lily/backend.h"

namespace lily::cuda {

inline int ceil_divide(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
inline int round_up(int64_t a, int b) { return ceil_divide(a, b) * b; }

// Minimum number of blocks that a launch aims for: one per multiprocessor, and 64 on any device.
inline int min_blocks(const Device &device) { return std::max(64, device.multiprocessors); }

// Whether each token has its own weights (u_t = w_t (x) h_t), instead of one combined projector C for all tokens.
// Sequences use it too: no C per sequence is formed, rows do not depend on how the batch is divided, and while E r is
// small the traffic is the same.
inline bool has_token_weights(const lily_problem &problem, bool has_offsets) {
  return problem.routing == LILY_ROUTING_TOKEN || problem.routing == LILY_ROUTING_SEQUENCE ||
         (problem.routing == LILY_ROUTING_FIXED && (has_offsets || problem.groups != 1));
}

// The arithmetic that a problem requires.
enum class EngineKind { kExact, kTf32, kBfloat16, kFloat16 };

inline EngineKind engine_kind(const lily_problem &problem, const Device &device) {
  const bool ampere = device.compute_major >= 8;
  if (problem.activation_dtype == LILY_FLOAT32)
    return problem.precision == LILY_PRECISION_TF32 && ampere ? EngineKind::kTf32 : EngineKind::kExact;
  if (problem.precision == LILY_PRECISION_HIGH) return EngineKind::kExact;
  if (problem.activation_dtype == LILY_FLOAT16) return EngineKind::kFloat16;
  // Turing's matrix units do not support bfloat16, and float16 has too small a range: elements are converted to float32
  // as they are loaded.
  return ampere ? EngineKind::kBfloat16 : EngineKind::kExact;
}

// Tokens per block of a shrink kernel: a full tile if that gives enough blocks, otherwise fewer.
inline int shrink_tokens(int most, int tokens, const Device &device) {
  int count = most;
  while (count > 8 && ceil_divide(tokens, count) < min_blocks(device)) count /= 2;
  return count;
}

struct Split {
  int tokens;  // per split
  int count;
};

// Splits the tokens of a strip kernel into whole tiles, so that `column_tiles` * splits is about `blocks`.
inline Split split_tokens(int tokens, int tile_tokens, int column_tiles, int blocks) {
  const int tiles = std::max(1, ceil_divide(tokens, tile_tokens));
  const int target_count = std::clamp(ceil_divide(blocks, column_tiles), 1, tiles);
  const int per_split = ceil_divide(tiles, target_count);
  return {per_split * tile_tokens, ceil_divide(tiles, per_split)};
}

}  // namespace lily::cuda
