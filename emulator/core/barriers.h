// Codes that the decoder of bar and barrier leaves in an instruction: `variant`, and for reductions `operation`.
// `flag` is set for aligned barriers, which all lanes of a warp must reach together.
#pragma once

#include <cstdint>

namespace lily::emulator {

enum BarrierVariant : uint8_t { kBarrierSync, kBarrierArrive, kBarrierReduce };
enum BarrierReduction : uint8_t { kReducePopc, kReduceAnd, kReduceOr };

// A mask_operand: no member mask, but the lanes that happen to be together (activemask).
inline constexpr int8_t kConverged = -2;

}  // namespace lily::emulator
