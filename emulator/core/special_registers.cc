// Names and values of the special registers.
#include "core/special_registers.h"

#include <map>
#include <string>

#include "core/block.h"

namespace lily::emulator {

std::optional<SpecialRegister> special_register_named(std::string_view name) {
  using enum SpecialRegister;
  static const std::map<std::string_view, SpecialRegister> kNames = {
      {"%tid.x", kTidX},
      {"%tid.y", kTidY},
      {"%tid.z", kTidZ},
      {"%ntid.x", kNtidX},
      {"%ntid.y", kNtidY},
      {"%ntid.z", kNtidZ},
      {"%ctaid.x", kCtaidX},
      {"%ctaid.y", kCtaidY},
      {"%ctaid.z", kCtaidZ},
      {"%nctaid.x", kNctaidX},
      {"%nctaid.y", kNctaidY},
      {"%nctaid.z", kNctaidZ},
      {"%laneid", kLaneid},
      {"%warpid", kWarpid},
      {"%nwarpid", kNwarpid},
      {"%smid", kSmid},
      {"%nsmid", kNsmid},
      {"%gridid", kGridid},
      {"%lanemask_eq", kLanemaskEq},
      {"%lanemask_lt", kLanemaskLt},
      {"%lanemask_le", kLanemaskLe},
      {"%lanemask_gt", kLanemaskGt},
      {"%lanemask_ge", kLanemaskGe},
      {"%dynamic_smem_size", kDynamicSharedSize},
      {"%total_smem_size", kTotalSharedSize},
      {"%envreg1", kGridWorkspaceHigh},
      {"%envreg2", kGridWorkspaceLow},
      {"%clock", kClock},
      {"%clock64", kClock},
      {"%globaltimer", kClock},
      {"%globaltimer_lo", kClock},
      {"%is_explicit_cluster", kZero},
      {"%clusterid.x", kCtaidX},
      {"%clusterid.y", kCtaidY},
      {"%clusterid.z", kCtaidZ},
      {"%nclusterid.x", kNctaidX},
      {"%nclusterid.y", kNctaidY},
      {"%nclusterid.z", kNctaidZ},
      {"%cluster_ctaid.x", kZero},
      {"%cluster_ctaid.y", kZero},
      {"%cluster_ctaid.z", kZero},
      {"%cluster_nctaid.x", kOne},
      {"%cluster_nctaid.y", kOne},
      {"%cluster_nctaid.z", kOne},
      {"%cluster_ctarank", kZero},
      {"%cluster_nctarank", kOne},
  };
  const auto found = kNames.find(name);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

uint64_t value_of(SpecialRegister which, const Thread &thread) {
  using enum SpecialRegister;
  const Block &block = *thread.block;
  const LaunchState &launch = *block.launch;
  const Dim3 tid = launch.thread_position(thread.index);
  const uint32_t bit = 1u << thread.lane;
  const uint64_t workspace = reinterpret_cast<uint64_t>(launch.grid_workspace);
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
    case kWarpid: return thread.index / 32;
    case kNwarpid: return block.warps.size();
    case kNsmid: return 1;
    case kLanemaskEq: return bit;
    case kLanemaskLt: return bit - 1;
    case kLanemaskLe: return bit | (bit - 1);
    case kLanemaskGt: return static_cast<uint32_t>(~(bit | (bit - 1)));
    case kLanemaskGe: return static_cast<uint32_t>(~(bit - 1));
    case kDynamicSharedSize: return launch.dynamic_shared_bytes;
    case kTotalSharedSize: return block.shared.size();
    case kGridWorkspaceHigh: return workspace >> 32;
    case kGridWorkspaceLow: return workspace & 0xffffffff;
    case kOne: return 1;
    default: return 0;
  }
}

}  // namespace lily::emulator
