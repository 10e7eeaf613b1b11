// Block barriers (bar.sync) and the warp barrier (bar.warp.sync).
#include <algorithm>

#include "core/block.h"

namespace lily::emulator {
namespace {

void join(std::vector<uint32_t> &known, const std::vector<uint32_t> &other) {
  for (size_t i = 0; i < known.size(); ++i) known[i] = std::max(known[i], other[i]);
}

void complete(Block &block, uint32_t number) {
  const Barrier barrier = std::move(block.barriers[number]);
  block.barriers.erase(number);
  std::vector<uint32_t> known = barrier.vector_clock;
  const uint32_t now = ++block.time;
  for (const Thread *thread : barrier.waiting) known[thread->index / 32] = now;
  for (Thread *thread : barrier.waiting) {
    thread->epoch = now;
    thread->state = Thread::State::kReady;
    thread->warp->at_barrier = nullptr;
    if (block.traffic != nullptr && thread == barrier.waiting.front()) ++block.traffic->at(thread->pc).barriers;
    ++thread->pc;
    thread->warp->ready.push_back(thread);
  }
  // A fixed rotation of the warps would hide missing barriers, so every warp gets a new random priority.
  for (size_t i = 0; i < block.warps.size(); ++i) {
    Warp &warp = block.warps[i];
    warp.priority = block.random();
    if (known[i] == now) join(warp.vector_clock, known);
  }
}

uint32_t needed(const Block &block, const Barrier &barrier) {
  return barrier.needed == 0 ? block.live : barrier.needed;
}

}  // namespace

void arrive_at_barrier(Thread &thread, const Instruction &in) {
  Block &block = *thread.block;
  const uint32_t number = static_cast<uint32_t>(thread.get(in.operands[0]));
  const uint32_t count = in.operand_count > 1 ? static_cast<uint32_t>(thread.get(in.operands[1])) : 0;
  if (number > 15)
    thread.report(in, FindingKind::kBadOperand, "barrier number " + std::to_string(number) + " is above 15");
  if (count % 32 != 0) {
    thread.report(in, FindingKind::kBadOperand,
                  "thread count " + std::to_string(count) + " is not a multiple of the warp size");
  }

  Barrier &barrier = block.barriers[number];
  if (barrier.waiting.empty()) {
    barrier.needed = count;
    barrier.vector_clock.assign(block.warps.size(), 0);
  } else if (barrier.needed != count) {
    thread.report(in, FindingKind::kDivergentBarrier,
                  "thread count " + std::to_string(count) + " differs from the " + std::to_string(barrier.needed) +
                      " of the threads that wait at barrier " + std::to_string(number));
  }
  if (const Thread *other = thread.warp->at_barrier; other != nullptr && other->pc != thread.pc) {
    thread.report(in, FindingKind::kDivergentBarrier,
                  "lane " + std::to_string(other->lane) + " of the same warp waits at " +
                      describe(*block.launch->code, other->pc));
  }
  join(barrier.vector_clock, thread.warp->vector_clock);
  thread.state = Thread::State::kAtBarrier;
  thread.warp->at_barrier = &thread;
  barrier.waiting.push_back(&thread);
  if (barrier.waiting.size() >= needed(block, barrier)) complete(block, number);
}

void complete_barriers_after_exit(Block &block) {
  for (auto &[number, barrier] : block.barriers) {
    if (barrier.needed != 0 || block.live == 0 || barrier.waiting.size() != block.live) continue;
    complete(block, number);
    return;
  }
}

void WarpOperation::synchronise() {
  const uint32_t now = ++block->time;
  each([&](int, Thread &thread) { thread.epoch = now; });
}

}  // namespace lily::emulator
