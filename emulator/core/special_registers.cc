// Names and values of the special registers.
#include "core/special_registers.h"

#include <map>
#include <string>

#include "core/block.h"

namespace lily::emulator {

std::optional<SpecialRegister> special_register_named(std::string_view name) {
  using enum SpecialRegister;
  static const std::map<std::string_view, SpecialRegister> kNames = {
      {"%tid.x", kTidX},     {"%tid.y", kTidY},       {"%tid.z", kTidZ},       {"%ntid.x", kNtidX},
      {"%ntid.y", kNtidY},   {"%ntid.z", kNtidZ},     {"%ctaid.x", kCtaidX},   {"%ctaid.y", kCtaidY},
      {"%ctaid.z", kCtaidZ}, {"%nctaid.x", kNctaidX}, {"%nctaid.y", kNctaidY}, {"%nctaid.z", kNctaidZ},
      {"%laneid", kLaneid},
  };
  const auto found = kNames.find(name);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

uint64_t value_of(SpecialRegister which, const Thread &thread) {
  using enum SpecialRegister;
  const Block &block = *thread.block;
  const LaunchState &launch = *block.launch;
  const Dim3 tid = launch.thread_position(thread.index);
  switch (which) {
    case kTidX: return tid.x;
    case kTidY: return tid.y;
    case kTidZ: return tid.z;
    case kNtidX: return launch.block_size.x;
    case kNtidY: return launch.block_size.y;
    case kNtidZ: return launch.block_size.z;
    case kCtaidX: return block.id.x;
    case kCtaidY: return block.id.y;
    case kCtaidZ: return block.id.z;
    case kNctaidX: return launch.grid.x;
    case kNctaidY: return launch.grid.y;
    case kNctaidZ: return launch.grid.z;
    case kLaneid: return thread.lane;
  }
  return 0;
}

}  // namespace lily::emulator
