// Sets up a block: registers, memory, warps.
#include "core/block.h"

#include "core/declaration.h"

namespace lily::emulator {

Block::Block(LaunchState &owner, uint32_t number) : launch(&owner), linear(number) {
  const KernelCode &code = *owner.code;
  const LaunchOptions &options = owner.options;
  id = {number % owner.grid.x, number / owner.grid.x % owner.grid.y, number / (owner.grid.x * owner.grid.y)};
  live = static_cast<uint32_t>(owner.block_size.count());
  random_state = (options.seed + 1) * 0x9e3779b97f4a7c15 + number * 0xbf58476d1ce4e5b9;

  const size_t register_count = code.initial_registers.size();
  shared.assign(code.dynamic_shared_offset + owner.dynamic_shared_bytes, 0xff);
  local.assign(live * code.local_bytes, 0xff);
  if (options.checks) {
    shared_state.assign(shared.size(), 0);
    local_state.assign(local.size(), 0);
    if (options.shared_races) shared_cells.resize(shared.size() / 2 + 1);
    if (!code.accumulators.empty()) proxy_epochs.assign(shared.size() / 2 + 1, 0);
  }
  threads.resize(live);
  warps.resize((live + 31) / 32);
  warpgroups.resize((live + kWarpgroupThreads - 1) / kWarpgroupThreads);
  registers.resize(live * register_count);
  if (options.counters)
    traffic = std::make_unique<Traffic>(*owner.register_uses, code.instructions.size(), warps.size(), live);

  for (Warp &warp : warps) {
    warp.priority = random();
    warp.vector_clock.assign(warps.size(), 0);
  }
  wait_epochs.assign(warps.size(), 0);
  for (uint32_t i = 0; i < live; ++i) {
    Thread &thread = threads[i];
    thread.index = static_cast<uint16_t>(i);
    thread.lane = static_cast<uint8_t>(i % 32);
    thread.block = this;
    thread.warp = &warps[i / 32];
    thread.warp->lanes[thread.lane] = &thread;
    thread.warp->ready.push_back(&thread);
    ++thread.warp->count;
    thread.warp->live |= 1u << thread.lane;
    thread.registers = registers.data() + i * register_count;
    std::copy(code.initial_registers.begin(), code.initial_registers.end(), thread.registers);
    for (const KernelCode::Special &special : code.special_registers) {
      thread.registers[special.reg] = value_of(special.which, thread);
    }
    if (options.counters) thread.executions.assign(code.instructions.size(), 0);
  }
}

// xorshift64*: fast, and its upper bits are random enough for a schedule.
uint32_t Block::random() {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return static_cast<uint32_t>(random_state * 0x2545f4914f6cdd1d >> 32);
}

}  // namespace lily::emulator
