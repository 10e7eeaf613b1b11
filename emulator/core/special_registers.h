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
};

// Empty for a register that is not supported.
std::optional<SpecialRegister> special_register_named(std::string_view name);
uint64_t value_of(SpecialRegister which, const Thread &thread);

}  // namespace lily::emulator
