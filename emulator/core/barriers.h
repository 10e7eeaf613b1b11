// How the decoder of bar and barrier encodes an instruction: `variant` holds a BarrierVariant and, for bar.red,
// `operation` a BarrierReduction. `flag` is set for aligned barriers, which all lanes of a warp must execute together.
#pragma once

#include <cstdint>

namespace lily::emulator {

enum BarrierVariant : uint8_t { kBarrierSync, kBarrierArrive, kBarrierReduce };
enum BarrierReduction : uint8_t { kReducePopc, kReduceAnd, kReduceOr };

// Value of `mask_operand` for activemask, which has no member mask: the operation covers the lanes that are converged.
inline constexpr int8_t kConverged = -2;

}  // namespace lily::emulator
