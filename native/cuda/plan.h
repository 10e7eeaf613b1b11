// What a call launches: the formulation, the split of the work, and where its workspace lies. Host code without CUDA.
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

// Blocks that a launch should have at least: one for each multiprocessor, and 64 on any device.
inline int min_blocks(const Device &device) { return std::max(64, device.multiprocessors); }

// Every token its own mixture, or one combined HP for all. Sequences take the first: no combined HP per sequence is
// ever formed, rows do not depend on how the batch is cut, and while E r is small it costs the same bytes.
inline bool has_token_weights(const lily_problem &problem, bool has_offsets) {
  return problem.routing == LILY_ROUTING_TOKEN || problem.routing == LILY_ROUTING_SEQUENCE ||
         (problem.routing == LILY_ROUTING_FIXED && (has_offsets || problem.groups != 1));
}

// Which arithmetic a problem asks for.
enum class EngineKind { kExact, kTf32, kBfloat16, kFloat16 };

inline EngineKind engine_kind(const lily_problem &problem, const Device &device) {
  const bool ampere = device.compute_major >= 8;
  if (problem.activation_dtype == LILY_FLOAT32)
    return problem.precision == LILY_PRECISION_TF32 && ampere ? EngineKind::kTf32 : EngineKind::kExact;
  if (problem.precision == LILY_PRECISION_HIGH) return EngineKind::kExact;
  if (problem.activation_dtype == LILY_FLOAT16) return EngineKind::kFloat16;
  // Turing's matrix units know no bfloat16, and float16 has not its range: numbers become float32 as they are loaded.
  return ampere ? EngineKind::kBfloat16 : EngineKind::kExact;
}

// Tokens of a block that owns tokens: as many as its tile holds while there are blocks enough, then fewer.
inline int shrink_tokens(int most, int tokens, const Device &device) {
  int count = most;
  while (count > 8 && ceil_divide(tokens, count) < min_blocks(device)) count /= 2;
  return count;
}

// Blocks of tokens for strips: so many as make `blocks` of all slices, and whole tiles.
struct Split {
  int tokens;  // of a block
  int count;
};

inline Split split_tokens(int tokens, int tile_tokens, int column_tiles, int blocks) {
  const int tiles = std::max(1, ceil_divide(tokens, tile_tokens));
  const int target_count = std::clamp(ceil_divide(blocks, column_tiles), 1, tiles);
  const int per_split = ceil_divide(tiles, target_count);
  return {per_split * tile_tokens, ceil_divide(tiles, per_split)};
}

}  // namespace lily::cuda
