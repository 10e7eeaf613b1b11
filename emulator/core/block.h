// A block under execution and the launch it belongs to.
#pragma once

#include <atomic>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/access.h"
#include "core/kernel_code.h"
#include "core/thread.h"
#include "core/traffic.h"
#include "core/warpgroup.h"

namespace lily::emulator {

// Lanes of a warp that wait for each other at a warp operation.
struct PendingOperation {
  const Instruction *in = nullptr;
  uint32_t mask = 0, arrived = 0;
  std::array<Thread *, 32> lanes{};
};

struct Warp {
  std::array<Thread *, 32> lanes{};
  int count = 0;
  uint32_t priority = 0;
  std::vector<Thread *> ready;
  std::vector<PendingOperation> pending;
  // Per warp of the block: accesses of earlier epochs are ordered before ours.
  std::vector<uint32_t> vector_clock;
  uint32_t live = 0;                   // lanes that have not exited
  const Thread *at_barrier = nullptr;  // any lane of the warp that waits at a block barrier

  uint32_t existing_mask() const { return count == 32 ? ~0u : (1u << count) - 1; }
  uint32_t live_mask() const { return live; }
};

struct Barrier {
  uint32_t needed = 0;  // thread count of the barrier; 0: all threads that have not exited
  std::vector<Thread *> waiting;
  std::vector<uint32_t> vector_clock;  // the joined vector clocks of the waiting threads
};

// State of a byte of shared or local memory: kInFlight marks the destination of a cp.async before its wait. A byte of
// shared memory also has kProductReader for each product in flight that reads it.
enum class ByteState : uint8_t { kNeverWritten = 0, kWritten = 1, kInFlight = 2, kMask = 3 };
inline constexpr uint8_t kProductReader = 4, kMostProductReaders = 63;
constexpr ByteState stage_of(uint8_t state) {
  return static_cast<ByteState>(state & static_cast<int>(ByteState::kMask));
}

struct Block {
  Block(LaunchState &launch, uint32_t linear);
  uint32_t random();  // for the schedule

  LaunchState *launch;
  uint32_t linear;
  Dim3 id;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<uint64_t> registers;
  std::vector<uint8_t> shared, shared_state;
  std::vector<uint8_t> local, local_state;  // local_bytes per thread
  std::vector<AccessCell> shared_cells;     // empty unless shared races are checked
  // Per two bytes: the writing thread's epoch at its fence.proxy.async after the write; 0: none. Empty unless a
  // warpgroup's products are checked.
  std::vector<uint32_t> proxy_epochs;
  std::map<uint32_t, Barrier> barriers;
  uint32_t live = 0;
  uint32_t time = 1;  // the block's clock: number of synchronisations so far
  uint64_t random_state;
  uint64_t instructions = 0;
  // Per warp: the epoch of a thread's first griddepcontrol.wait; 0: none so far.
  std::vector<uint32_t> wait_epochs;
  bool waited = false, started_dependents = false;
  std::array<std::shared_ptr<Allocation>, 8> recent;  // most recently used first
  std::unique_ptr<Traffic> traffic;                   // null unless counting
};

struct LaunchState {
  const KernelCode *code = nullptr;
  LaunchOptions options;
  Dim3 grid, block_size;
  size_t dynamic_shared_bytes = 0;
  const uint8_t *parameters = nullptr;
  uint64_t id = 0;  // unique in the process, so that race records of other launches can be recognised as stale

  std::mutex findings_mutex;
  std::vector<Finding> findings;
  std::atomic<bool> ended{false};  // set by a finding; blocks on other host threads stop too
  std::atomic<uint64_t> instructions{0};
  TrafficTotals traffic;
  std::unique_ptr<const RegisterUses> register_uses;          // null unless counting
  std::vector<std::pair<Allocation *, uint64_t>> race_pages;  // pages accessed by this launch
  std::atomic<uint64_t> early_starts{0};                      // blocks that started dependents before they waited
  // options.earlier by allocation and page; filled at the first access before a wait.
  std::map<std::pair<uint64_t, uint64_t>, std::vector<std::pair<const EarlierLaunch *, const TouchedPage *>>> earlier;

  Dim3 thread_position(uint32_t index) const {
    return {index % block_size.x, index / block_size.x % block_size.y, index / (block_size.x * block_size.y)};
  }
};

// Thrown to end a launch after a finding.
struct LaunchEnded {};

// races.cc
struct RaceAccess {
  bool write = false, strong = false;
};
void check_shared_race(Thread &thread, const Instruction &in, uint32_t offset, uint32_t bytes, RaceAccess access);
void check_global_race(Thread &thread, const Instruction &in, Allocation &allocation, uint64_t offset, uint32_t bytes,
                       RaceAccess access);
std::vector<TouchedPage> touched_pages(const LaunchState &launch);
// A product of a warpgroup reads a piece of 16 bytes: the write to it must be ordered before each of the readers, after
// a proxy fence. `known` is the last write that passed, `known_fence` its fence.
void check_product_read(std::span<Thread *const> readers, const Instruction &in, uint32_t offset, AccessRecord &known,
                        uint32_t &known_fence);

// async_proxy.cc
void note_shared_write(Thread &thread, uint32_t offset, uint32_t bytes);

// dependent_launch.cc
void check_before_wait(Thread &thread, const Instruction &in, const Allocation &allocation, uint64_t offset,
                       uint32_t bytes, RaceAccess access);
void check_waited(Thread &thread, const Instruction &in);

// barriers.cc
void arrive_at_barrier(Thread &thread, const Instruction &in);
void complete_barriers_after_exit(Block &block);

// warp_operations.cc
void arrive_at_warp_operation(Thread &thread, const Instruction &in);
void exit_thread(Thread &thread, const Instruction &in);

// scheduler.cc: runs the block to completion, interleaving its warps.
void run_warps(Block &block);

}  // namespace lily::emulator
