// griddepcontrol: a kernel with programmatic dependent launch may start before the launches before it have ended.
//
// The emulator runs launches one after the other. It checks instead what a thread accesses before it executes
// griddepcontrol.wait, or is ordered after a thread of its block that has: nothing that an earlier launch that may
// still be running writes, and no writes to what such a launch reads. A load by ld.global.nc may not follow the wait
// either: its cache is not coherent, and memory must be constant from the kernel's beginning.
#include <algorithm>

#include "core/block.h"
#include "core/instructions/families.h"
#include "core/memory.h"

namespace lily::emulator {
namespace {

void wait_for_earlier(Thread &thread, const Instruction &) {
  Block &block = *thread.block;
  thread.waited = block.waited = true;
  uint32_t &epoch = block.wait_epochs[thread.index / 32];
  if (epoch == 0) epoch = thread.epoch;
}

void start_dependents(Thread &thread, const Instruction &) {
  Block &block = *thread.block;
  if (!block.started_dependents && !block.waited) ++block.launch->early_starts;
  block.started_dependents = true;
}

// Whether the thread, or another one that it is ordered after, has waited.
bool has_waited(Thread &thread) {
  const Block &block = *thread.block;
  const uint32_t own = thread.index / 32;
  for (uint32_t warp = 0; warp < block.wait_epochs.size() && !thread.waited; ++warp) {
    const uint32_t known = warp == own ? thread.epoch : thread.warp->vector_clock[warp];
    thread.waited = block.wait_epochs[warp] != 0 && block.wait_epochs[warp] < known;
  }
  return thread.waited;
}

}  // namespace

void check_before_wait(Thread &thread, const Instruction &in, const Allocation &allocation, uint64_t offset,
                       uint32_t bytes, RaceAccess access) {
  LaunchState &launch = *thread.block->launch;
  const bool waited = has_waited(thread);
  if (launch.options.earlier.empty() || (waited && !in.is_constant)) return;
  if (launch.earlier.empty()) {
    for (const auto &each : launch.options.earlier) {
      for (const TouchedPage &page : each->touched) {
        launch.earlier[{page.allocation, page.page}].emplace_back(each.get(), &page);
      }
    }
  }
  for (uint64_t unit = offset / 2; unit <= (offset + bytes - 1) / 2; ++unit) {
    const auto found = launch.earlier.find({allocation.id, unit / TouchedPage::kUnits});
    if (found == launch.earlier.end()) continue;
    for (const auto &[earlier, page] : found->second) {
      const size_t index = unit % TouchedPage::kUnits;
      const bool changed = page->written[index];
      if (!changed && !(access.write && page->read[index])) continue;
      thread.report(in, FindingKind::kNoWait,
                    describe_access(bytes, access.write) + "global offset " + std::to_string(offset) +
                        " of the allocation " +
                        (waited ? "by ld.global.nc, whose cache is not coherent" : "before griddepcontrol.wait") +
                        "; " + earlier->name + ", which " + (changed ? "writes" : "reads") + " it, may still " +
                        (waited ? "have been running when the kernel began" : "be running"));
    }
  }
}

void check_waited(Thread &thread, const Instruction &in) {
  const Block &block = *thread.block;
  const LaunchOptions &options = block.launch->options;
  if (!options.dependent || !options.checks || block.live != 0 || block.waited) return;
  thread.report(in, FindingKind::kNoWait,
                "the block ends without griddepcontrol.wait: launches after this one may start before those before it "
                "have ended");
}

void decode_grid_control(Instruction &in, Modifiers &modifiers) {
  const int action = modifiers.take_any({"launch_dependents", "wait"});
  if (action < 0) refuse(in, "requires .launch_dependents or .wait");
  expect_operands(in, 0, 0);
  in.executor = action == 0 ? start_dependents : wait_for_earlier;
}

}  // namespace lily::emulator
