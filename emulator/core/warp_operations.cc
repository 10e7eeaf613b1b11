// Warp operations: lanes wait for the others of their member mask, and exits release lanes that wait.
#include "core/block.h"

namespace lily::emulator {
namespace {

// The lanes that must arrive at a warp operation. Lanes that have exited are not waited for.
uint32_t member_mask(const Thread &thread, const Instruction &in) {
  const Warp &warp = *thread.warp;
  if (in.mask_operand == Operand::kNone) {
    if (warp.live_mask() != ~0u) {
      thread.report(in, FindingKind::kDivergentOperation,
                    "requires all 32 lanes of the warp, but some do not exist or have exited");
    }
    return ~0u;
  }
  const uint32_t mask = static_cast<uint32_t>(thread.get(in.operands[in.mask_operand]));
  if (!(mask >> thread.lane & 1)) {
    thread.report(in, FindingKind::kDivergentOperation, "the lane is not in its own member mask");
  }
  return mask & warp.existing_mask();
}

void execute(Warp &warp, size_t index) {
  PendingOperation pending = std::move(warp.pending[index]);
  warp.pending.erase(warp.pending.begin() + static_cast<std::ptrdiff_t>(index));
  const Instruction &in = *pending.in;
  Thread &first = *pending.lanes[std::countr_zero(pending.arrived)];
  WarpOperation operation{pending.arrived, pending.lanes, &warp, first.block};
  in.warp_executor(operation, in);
  if (in.is_matrix && first.block->traffic != nullptr) ++first.block->traffic->at(in.pc).matrix_instructions;
  operation.each([&](int, Thread &thread) {
    thread.state = Thread::State::kReady;
    ++thread.pc;
    warp.ready.push_back(&thread);
  });
}

}  // namespace

void arrive_at_warp_operation(Thread &thread, const Instruction &in) {
  Warp &warp = *thread.warp;
  if (in.is_tracked) check_results_in_flight(thread, in);
  const uint32_t mask = member_mask(thread, in);
  const auto joins = [&](const PendingOperation &pending) {
    // Lanes may be at different __syncwarp() calls; every other operation must be the same instruction for all of them.
    return pending.mask == mask && (pending.in == &in || (in.opcode == "bar" && pending.in->opcode == "bar"));
  };
  size_t i = 0;
  while (i < warp.pending.size() && !joins(warp.pending[i])) ++i;
  if (i == warp.pending.size()) {
    for (const PendingOperation &pending : warp.pending) {
      // Two groups that wait for each other. Disjoint groups and lanes that arrive later do not.
      if (!(pending.mask >> thread.lane & 1) || !(pending.arrived & mask)) continue;
      thread.report(in, FindingKind::kDivergentOperation,
                    "other lanes of the warp wait at " + describe(*thread.block->launch->code, pending.in->pc) +
                        (pending.in == &in ? " with a different member mask" : ""));
    }
    warp.pending.push_back({&in, mask, 0, {}});
  }
  PendingOperation &pending = warp.pending[i];
  thread.state = Thread::State::kAtWarpOperation;
  pending.arrived |= 1u << thread.lane;
  pending.lanes[thread.lane] = &thread;
  if (pending.arrived == (mask & warp.live_mask())) execute(warp, i);
}

void exit_thread(Thread &thread, const Instruction &in) {
  if (!thread.copies.empty() && thread.block->launch->options.checks) {
    thread.report(in, FindingKind::kAsyncCopy, "the thread exits with asynchronous copies in flight");
  }
  thread.state = Thread::State::kExited;
  Warp &warp = *thread.warp;
  warp.live &= ~(1u << thread.lane);
  --thread.block->live;
  check_warpgroup_at_exit(thread, in);
  check_waited(thread, in);
  if (!warp.pending.empty()) {
    const uint32_t live = warp.live_mask();
    for (size_t i = warp.pending.size(); i-- > 0;) {
      PendingOperation &pending = warp.pending[i];
      if (!(pending.mask >> thread.lane & 1)) continue;
      if (pending.in->mask_operand == Operand::kNone) {
        thread.report(*pending.in, FindingKind::kDivergentOperation,
                      "requires all 32 lanes of the warp, but this thread has exited");
      }
      if (pending.arrived == (pending.mask & live)) execute(warp, i);
    }
  }
  if (!thread.block->barriers.empty()) complete_barriers_after_exit(*thread.block);
}

}  // namespace lily::emulator
