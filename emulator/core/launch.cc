// Launches a kernel: limits, order of the blocks, host threads of the fast mode.
#include <algorithm>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "core/block.h"

namespace lily::emulator {
namespace {

void check_configuration(const KernelCode &code, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes,
                         const LaunchOptions &options) {
  const auto refuse_launch = [&](const std::string &why) { throw Error("launch of " + code.name + ": " + why); };
  if (grid.count() == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || grid.count() > 0x7fffffffu) {
    refuse_launch("the grid size is invalid");
  }
  if (block.count() == 0 || block.count() > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64) {
    refuse_launch("the block size is invalid");
  }
  if (code.max_threads != 0 && block.count() > code.max_threads) {
    refuse_launch(std::to_string(block.count()) + " threads per block exceed the kernel's maximum of " +
                  std::to_string(code.max_threads));
  }
  if (code.dynamic_shared_offset + dynamic_shared_bytes > options.max_shared_bytes) {
    refuse_launch(std::to_string(code.dynamic_shared_offset + dynamic_shared_bytes) +
                  " bytes of shared memory per block exceed the limit");
  }
}

void run_block(LaunchState &launch, uint32_t number) {
  Block block(launch, number);
  try {
    run_warps(block);
  } catch (const LaunchEnded &) {
  }
  launch.instructions += block.instructions;
  if (block.traffic != nullptr) block.traffic->merge_into(launch.traffic, launch.findings_mutex);
}

// A device may run blocks in any order, so the order is random.
void run_sequentially(LaunchState &launch) {
  std::vector<uint32_t> order(launch.grid.count());
  std::iota(order.begin(), order.end(), 0);
  uint64_t state = launch.options.seed;
  for (size_t i = order.size(); launch.options.seed != 0 && i > 1; --i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  for (size_t i = 0; i < order.size() && !launch.ended; ++i) run_block(launch, order[i]);
}

void run_on_threads(LaunchState &launch) {
  const uint64_t threads =
      launch.options.threads > 0 ? launch.options.threads : std::max(1u, std::thread::hardware_concurrency());
  const uint64_t blocks = launch.grid.count();
  std::atomic<uint64_t> next{0};
  std::exception_ptr error;
  const auto work = [&] {
    try {
      for (uint64_t i; !launch.ended && (i = next++) < blocks;) run_block(launch, static_cast<uint32_t>(i));
    } catch (...) {
      const std::lock_guard lock(launch.findings_mutex);
      error = std::current_exception();
      launch.ended = true;
    }
  };
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < std::min(threads, blocks); ++i) helpers.emplace_back(work);
  work();
  for (std::thread &helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace

LaunchResult launch(const Kernel &kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, const void *parameters,
                    const LaunchOptions &options) {
  static std::atomic<uint64_t> launches{0};
  // The race records of an allocation belong to one launch, so checked launches of several host threads run one at a
  // time.
  static std::mutex checked;
  std::unique_lock<std::mutex> turn(checked, std::defer_lock);
  if (options.checks) turn.lock();
  const KernelCode &code = *kernel.code();
  check_configuration(code, grid, block, dynamic_shared_bytes, options);
  LaunchState state;
  state.code = &code;
  state.options = options;
  state.grid = grid;
  state.block_size = block;
  state.dynamic_shared_bytes = dynamic_shared_bytes;
  state.parameters = static_cast<const uint8_t *>(parameters);
  state.id = ++launches;
  if (options.counters) state.register_uses = std::make_unique<RegisterUses>(code);
  if (options.checks) {
    run_sequentially(state);
  } else {
    run_on_threads(state);
  }

  LaunchResult result;
  result.findings = std::move(state.findings);
  result.instructions = state.instructions;
  result.dependents_start_early = state.early_starts == grid.count();
  if (options.touched) result.touched = touched_pages(state);
  if (options.counters) result.counters = summarise(code, state.traffic);
  return result;
}

}  // namespace lily::emulator
