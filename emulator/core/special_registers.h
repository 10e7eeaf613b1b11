// Special registers (%tid.x, %laneid, ...). They are read once, when a thread starts.
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
  kGridWorkspaceLow,  // %envreg1, %envreg2: address of the barrier of cooperative groups
  kZero,
  kOne,  // for clusters, which always have one block
  kClock,
};

// Empty for a register that is not supported. The emulator has no time: a clock register counts how often it was read.
// Only mov can read it.
std::optional<SpecialRegister> special_register_named(std::string_view name);
uint64_t value_of(SpecialRegister which, const Thread &thread);

}  // namespace lily::emulator
