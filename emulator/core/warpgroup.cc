#include "core/warpgroup.h"

#include <algorithm>
#include <bit>

#include "core/block.h"

namespace lily::emulator {
namespace {

Warpgroup &group_of(Thread &thread) { return thread.block->warpgroups[thread.index / kWarpgroupThreads]; }

bool is_complete(const Block &block, uint32_t first_warp) {
  for (uint32_t i = first_warp; i < first_warp + kWarpgroupThreads / 32; ++i) {
    if (i >= block.warps.size() || block.warps[i].live_mask() != ~0u) return false;
  }
  return true;
}

void deliver(const Warpgroup &group, const std::vector<Accumulator> &finished) {
  for (int i = 0; i < kWarpgroupThreads; ++i) {
    Thread &thread = *group.threads[i];
    for (const int32_t reg : thread.block->launch->code->accumulators) {
      const uint64_t value = thread.registers[reg];
      if (!is_token(value)) continue;
      for (const Accumulator &each : finished) {
        if (each.id != token_id(value)) continue;
        const float result = each.values[static_cast<size_t>(i * each.registers + token_element(value))];
        thread.registers[reg] = std::bit_cast<uint32_t>(result);
      }
    }
  }
}

// From here on, writes must be ordered after the reads of the product. Those before are findings of the writer.
void finish_reads(const Warpgroup &group, const ProductReads &reads) {
  Block &block = *group.threads[0]->block;
  const bool races = !block.shared_cells.empty();
  for (const ProductReads::Piece &piece : reads.pieces) {
    uint8_t *state = block.shared_state.data() + piece.offset;
    for (uint32_t i = 0; i < kPieceBytes; ++i) {
      if (state[i] >= kProductReader) state[i] -= kProductReader;
    }
    // A cell has room for two readers only; one warp stands for all.
    Thread &reader = *group.threads[piece.warp == ProductReads::kAllWarps ? 0 : 32 * piece.warp];
    if (races) check_shared_race(reader, *reads.in, piece.offset, kPieceBytes, {false, false});
  }
}

}  // namespace

void arrive_at_warpgroup_operation(Thread &thread, const Instruction &in) {
  Warpgroup &group = group_of(thread);
  const uint32_t first_warp = thread.index / kWarpgroupThreads * (kWarpgroupThreads / 32);
  if (!is_complete(*thread.block, first_warp)) {
    thread.report(in, FindingKind::kDivergentOperation,
                  "requires all 128 threads of the warpgroup, but some do not exist or have exited");
  }
  if (group.arrived > 0 && group.in != &in) {
    thread.report(in, FindingKind::kDivergentOperation,
                  "other threads of the warpgroup wait at " + describe(*thread.block->launch->code, group.in->pc));
  }
  group.in = &in;
  group.threads[thread.index % kWarpgroupThreads] = &thread;
  thread.state = Thread::State::kAtWarpOperation;
  if (++group.arrived < kWarpgroupThreads) return;
  in.warpgroup_executor(group, in);
  group.arrived = 0;
  group.in = nullptr;
  for (Thread *each : group.threads) {
    each->state = Thread::State::kReady;
    ++each->pc;
    each->warp->ready.push_back(each);
  }
}

void check_warpgroup_at_exit(Thread &thread, const Instruction &in) {
  const Warpgroup &group = group_of(thread);
  if (group.arrived > 0) {
    thread.report(*group.in, FindingKind::kDivergentOperation,
                  "requires all 128 threads of the warpgroup, but this thread has exited");
  }
  if (!group.accumulators.empty() && thread.block->launch->options.checks)
    thread.report(in, FindingKind::kAsyncProduct, "the thread exits with a product of its warpgroup in flight");
}

void complete_products(Warpgroup &group, uint32_t groups_left) {
  const auto is_in_flight = [&](const auto &each) { return each.group + groups_left >= group.committed; };
  const auto first = std::partition(group.accumulators.begin(), group.accumulators.end(), is_in_flight);
  const std::vector<Accumulator> finished(std::make_move_iterator(first),
                                          std::make_move_iterator(group.accumulators.end()));
  group.accumulators.erase(first, group.accumulators.end());
  deliver(group, finished);
  const auto first_read = std::partition(group.reads.begin(), group.reads.end(), is_in_flight);
  std::for_each(first_read, group.reads.end(), [&](const ProductReads &reads) { finish_reads(group, reads); });
  group.reads.erase(first_read, group.reads.end());
}

}  // namespace lily::emulator
