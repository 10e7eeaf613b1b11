// The sizes of blocks and steps of the AMX passes, for the passes and for their plan.
#pragma once

#include <stdint.h>

namespace lily::cpu {

constexpr int64_t kStepDepth = 32;    // values of k per tile of a left operand
constexpr int64_t kBlockRows = 32;    // rows and columns of a block of sums: 2 x 2 tiles
constexpr int64_t kStepBytes = 2048;  // of a packed operand: one step for 32 rows or columns

// Values of k between two times that the sums of a product go to memory.
constexpr int64_t kChunkDepth = 512;

// Columns of y or dx whose sums a block of 32 rows computes before it adds them: 16 KiB, and runs of 256 bytes of y.
constexpr int64_t kRunColumns = 128;

// Up to this number of tokens a panel of a packed operand is used once, so other operands are packed, and in other
// sizes.
constexpr int64_t kFewTokens = 32;

}  // namespace lily::cpu
