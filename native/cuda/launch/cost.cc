#include "cuda/launch/cost.h"

#include <algorithm>
#include <cmath>

#include "cuda/launch/walk.h"

namespace lily::cuda {
namespace {

double multiply_adds(EngineKind engine, const Constants &constants) {
  switch (engine) {
    case EngineKind::kTf32: return constants.tf32;
    case EngineKind::kExact: return constants.fma / 2;  // every second instruction loads operands
    default: return constants.tensor;
  }
}

double cube(double value) { return value * value * value; }

}  // namespace

Cost::Cost(EngineKind engine, int scalar_bytes, const Device &device)
    : device_(device),
      constants_(constants_of(device)),
      scalar_(scalar_bytes),
      rate_(multiply_adds(engine, constants_)) {}

Part Cost::product(double count, double steps, double m, double n, double k, const Warps &warps, double copied) const {
  const double fragments = (m * warps.n + n * warps.m) * k;
  return {count, steps, m * n * k / rate_, (fragments + copied) * scalar_, copied * scalar_};
}

Part Cost::product(double count, double steps, double m, double n, const LargeRow &row, double copied) const {
  m = std::ceil(m / row_unit(row)) * row_unit(row);
  n = std::ceil(n / column_unit(row)) * column_unit(row);
  // A warpgroup reads its rows of a, and all of b.
  const Warps readers = row.has_wgmma ? Warps{static_cast<int>(m) / kGroupRows, 1} : row.warps;
  Part part = product(count, steps, m, n, row.tile.block_k, readers, copied);
  if (row.has_wgmma) part.matrix *= rate_ / constants_.wgmma;
  part.ahead = row.stages - 1;
  return part;
}

double Cost::resident(const Block &block) const {
  // Static shared memory, and what CUDA reserves; a fit to the registers that ptxas reports.
  const double shared = block.shared_bytes + 576.0 + (device_.compute_major >= 8 ? 1024 : 0);
  const double registers = block.threads * std::min(255.0, 80 + 1.3 * block.accumulators);
  return std::max(1.0, std::floor(std::min({device_.shared_bytes_per_multiprocessor / shared, 65536 / registers,
                                            double(device_.threads_per_multiprocessor) / block.threads})));
}

double Cost::missing_share(double bytes) const {
  const double half = static_cast<double>(device_.l2_bytes) / 2;
  return std::clamp((bytes - half) / half, 0.0, 1.0);
}

Time Cost::time(double memory, const Block &block, std::initializer_list<Part> parts) const {
  constexpr double kSharedBytes = 128;  // of shared memory, per clock
  const double multiprocessors = device_.multiprocessors, latency = constants_.dram_latency;
  int kinds = 0;
  double blocks = 0, multiplying = 0, requested = 0;
  double busy = 0, fullest = 0, shortest = HUGE_VAL;  // clocks
  double waiting = 0, ends = 0, in_flight = 0;        // of all blocks
  for (const Part &part : parts) {
    if (part.count == 0) continue;
    ++kinds;
    const double clocks = part.steps * std::max(part.matrix, part.shared / kSharedBytes);
    const double rounds = part.count / multiprocessors;
    blocks += part.count;
    multiplying += clocks > 0 ? part.count : 0;
    requested += part.count * (part.steps * part.loaded + part.requested);
    busy += rounds * clocks;
    fullest = std::max(fullest, std::ceil(rounds) * clocks);
    if (clocks > 0) shortest = std::min(shortest, clocks);
    waiting += part.count * part.steps / part.ahead * latency;
    ends += part.count * part.latencies * latency;
    in_flight += part.count * std::min(part.steps, part.ahead) * part.loaded;
  }
  if (blocks == 0) return {};
  // The multiprocessor that ends last, if blocks of several kinds fill each other's gaps.
  if (multiplying > 0) {
    const double rounds = multiplying / multiprocessors;
    fullest = std::max(fullest, busy + (std::ceil(rounds) - rounds) * shortest);
  }
  const double most = resident(block),
               resident_warps = std::min(most, std::ceil(multiplying / multiprocessors)) * block.threads / kThreads;
  const double occupied = fullest / std::min(0.9, 0.5 + 0.15 * resident_warps);
  // A wave takes the latency of its loads, which doubles where they fill the bandwidth of the memory.
  const double at_once = std::min(blocks, multiprocessors * most);
  const double filling = device_.dram_bytes_per_second * latency / device_.clock_hz;
  const double wave = waiting / blocks * (1 + std::min(1.0, at_once * in_flight / blocks / filling));
  const double waves = std::ceil(blocks / at_once), end = ends / blocks;
  const double waited = (kinds > 1 ? blocks / at_once : waves) * wave + (waves - 1) * end;
  // Nothing overlaps with the ends of a block that is alone on its multiprocessor.
  const double exposed = most < 2 ? (waves - 1) * end : 0;
  // These interfere: a norm instead of the largest.
  const double on_blocks = std::max(occupied + exposed, waited) / device_.clock_hz;
  const double from_memory = memory_seconds(memory);
  const double from_l2 = requested / (constants_.l2_bytes * multiprocessors * device_.clock_hz);
  const double bound = std::cbrt(cube(on_blocks) + cube(from_memory) + cube(from_l2));
  return {constants_.launch_gap + end / device_.clock_hz + bound, occupied / device_.clock_hz};
}

}  // namespace lily::cuda
