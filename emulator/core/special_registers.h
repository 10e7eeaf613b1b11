// Special registers (%tid.x, %laneid, ...): read once, when a thread starts.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lily::emulator {

struct Block;
struct Thread;

enum class SpecialRegister : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kNwarpid,
  kSmid,
  kNsmid,
  kGridid,
  kLanemaskEq,
  kLanemaskLt,
  kLanemaskLe,
  kLanemaskGt,
  kLanemaskGe,
  kDynamicSharedSize,
  kTotalSharedSize,
  kGridWorkspaceHigh,
  kGridWorkspaceLow,  // %envreg1, %envreg2: where cooperative groups keep their barrier
  kZero,
  kOne,  // of a cluster of one block
  kClock,
};

// Empty for a register that is not supported. Clocks count how often they are read, as the emulator has no time; mov
// reads them.
std::optional<SpecialRegister> special_register_named(std::string_view name);
uint64_t value_of(SpecialRegister which, const Thread &thread);

}  // namespace lily::emulator
