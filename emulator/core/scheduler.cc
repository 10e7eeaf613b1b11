// Independent thread scheduling: every thread has its own program counter and runs until a warp operation, a barrier,
// its exit, or the end of its time slice. Random priorities, redrawn at each barrier, decide which warp runs next.
#include <algorithm>

#include "core/block.h"

namespace lily::emulator {
namespace {

// Instructions per time slice: long, because switching is slow.
constexpr int kTimeSlice = 20000;

// Runs the thread until an instruction that is not Flow::kNext and returns that instruction, or null at the end of the
// slice.
const Instruction *run_slice(Thread &thread) {
  Block &block = *thread.block;
  const Instruction *code = block.launch->code->instructions.data();
  Traffic *traffic = block.traffic.get();
  const uint64_t *registers = thread.registers;
  for (int i = 0; i < kTimeSlice; ++i) {
    const Instruction &in = code[thread.pc];
    if (in.guard >= 0 && static_cast<bool>(registers[in.guard] & 1) == in.guard_negated) {
      ++thread.pc;
      continue;
    }
    if (traffic != nullptr) {
      ++traffic->at(in.pc).thread_instructions;
      ++thread.executions[in.pc];
      traffic->loads.execute(thread, in);
    }
    if (in.flow == Flow::kNext) {
      ++thread.pc;
      in.executor(thread, in);
      continue;
    }
    block.instructions += i + 1;
    return &in;
  }
  block.instructions += kTimeSlice;
  return nullptr;
}

void step(Thread &thread) {
  const Instruction *in = run_slice(thread);
  if (in == nullptr) {
    thread.warp->ready.push_back(&thread);
    thread.warp->priority = thread.block->random();
    return;
  }
  switch (in->flow) {
    case Flow::kWarp: arrive_at_warp_operation(thread, *in); break;
    case Flow::kWarpgroup: arrive_at_warpgroup_operation(thread, *in); break;
    case Flow::kBarrier: arrive_at_barrier(thread, *in); break;
    case Flow::kExit: exit_thread(thread, *in); break;
    default: thread.report(*in, FindingKind::kTrap, in->full_name + " was reached");
  }
}

class Scheduler {
 public:
  explicit Scheduler(Block &block) : launch_(*block.launch), block_(block) {}

  void run() {
    while (Warp *warp = choose()) {
      Thread &thread = take(warp->ready);
      step(thread);
      if (++steps_ % 1024 == 0) check_limits(thread);
    }
    for (Thread &thread : block_.threads) {
      if (thread.state != Thread::State::kExited) report_deadlock(thread);
    }
  }

 private:
  // Removes and returns a random ready lane; the first one with seed 0.
  Thread &take(std::vector<Thread *> &ready) {
    const size_t index = launch_.options.seed == 0 ? 0 : block_.random() % ready.size();
    Thread &thread = *ready[index];
    if (launch_.options.seed == 0) {
      ready.erase(ready.begin());
    } else {
      ready[index] = ready.back();
      ready.pop_back();
    }
    return thread;
  }

  Warp *choose() {
    // Round robin, because a spinning warp must not be chosen repeatedly. Redrawn priorities give the same guarantee
    // below.
    std::vector<Warp> &warps = block_.warps;
    if (launch_.options.seed == 0) {
      for (size_t i = 0; i < warps.size(); ++i) {
        const size_t index = (turn_ + i) % warps.size();
        if (warps[index].ready.empty()) continue;
        turn_ = (index + 1) % warps.size();
        return &warps[index];
      }
      return nullptr;
    }
    Warp *best = nullptr;
    for (Warp &warp : warps) {
      if (!warp.ready.empty() && (best == nullptr || warp.priority > best->priority)) best = &warp;
    }
    return best;
  }

  void check_limits(const Thread &thread) {
    if (launch_.ended) throw LaunchEnded{};
    const uint64_t instructions = launch_.instructions + block_.instructions;
    if (instructions <= launch_.options.max_instructions) return;
    thread.report(launch_.code->instructions[thread.pc], FindingKind::kTimeout,
                  "still running after " + std::to_string(instructions) + " instructions");
  }

  void report_deadlock(const Thread &thread) {
    std::string text = "the thread waits forever";
    for (const auto &[number, barrier] : thread.block->barriers) {
      if (thread.state != Thread::State::kAtBarrier) break;
      if (std::find(barrier.waiting.begin(), barrier.waiting.end(), &thread) == barrier.waiting.end()) continue;
      const uint32_t needed = barrier.needed == 0 ? thread.block->live : barrier.needed;
      text += ": " + std::to_string(barrier.waiting.size()) + " of " + std::to_string(needed) +
              " threads have arrived at barrier " + std::to_string(number);
    }
    for (const PendingOperation &pending : thread.warp->pending) {
      if (thread.state != Thread::State::kAtWarpOperation || !(pending.arrived >> thread.lane & 1)) continue;
      text += ": " + std::to_string(std::popcount(pending.mask & ~pending.arrived)) +
              " lanes of its member mask never arrive";
    }
    const Warpgroup &group = thread.block->warpgroups[thread.index / kWarpgroupThreads];
    if (group.in == &launch_.code->instructions[thread.pc])
      text += ": " + std::to_string(group.arrived) + " of the " + std::to_string(kWarpgroupThreads) +
              " threads of its warpgroup have arrived";
    thread.report(launch_.code->instructions[thread.pc], FindingKind::kDeadlock, text);
  }

  LaunchState &launch_;
  Block &block_;
  size_t turn_ = 0;
  uint64_t steps_ = 0;
};

}  // namespace

void run_warps(Block &block) { Scheduler(block).run(); }

}  // namespace lily::emulator
