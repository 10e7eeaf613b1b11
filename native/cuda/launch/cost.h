// The time by which plans choose tiles, splits and launches: a rough one. Symbols as in docs/math.md.
#pragma once

#include <initializer_list>

#include "cuda/launch/constants.h"
#include "cuda/launch/plan.h"
#include "cuda/tiles/rows.h"

namespace lily::cuda {

// Equal blocks of a launch, with a main loop of `steps` steps. Bytes and clocks count one step.
struct Part {
  double count, steps;
  double matrix;         // clocks of the matrix units
  double shared;         // bytes that go through shared memory: copies and fragments
  double loaded;         // bytes that are requested from L2
  double ahead = 1;      // steps whose loads are in flight
  double latencies = 2;  // of memory, one after the other, outside of the main loop
  double requested = 0;  // bytes that are requested outside of the main loop
};

// What limits the number of resident blocks.
struct Block {
  int shared_bytes, threads, accumulators;
};

struct Time {
  double seconds;
  double occupied;  // seconds in which the busiest multiprocessor multiplies
};

class Cost {
 public:
  Cost(EngineKind engine, int scalar_bytes, const Device &device);

  // Time of a launch, with the gap between it and the one before. `memory`: bytes that memory delivers and accepts.
  Time time(double memory, const Block &block, std::initializer_list<Part> parts) const;
  double seconds(double memory, const Block &block, std::initializer_list<Part> parts) const {
    return time(memory, block, parts).seconds;
  }

  // Blocks that a multiprocessor holds.
  double resident(const Block &block) const;

  // `steps` products of m x n x k by each of `count` blocks, whose warps read fragments of their rows and columns.
  // `copied`: elements that a step copies to shared memory.
  Part product(double count, double steps, double m, double n, double k, const Warps &warps, double copied) const;
  // The same of a tile of large ranks: warps compute whole fragments.
  Part product(double count, double steps, double m, double n, const LargeRow &row, double copied) const;

  // The share of `bytes` that has left L2 before it is read again: none up to half of L2, all from the size of L2 on.
  double missing_share(double bytes) const;

  double memory_seconds(double bytes) const { return bytes / (device_.dram_bytes_per_second * constants_.dram_share); }
  // A latency of L2, in latencies of memory.
  double l2_latencies() const { return constants_.l2_latency / constants_.dram_latency; }

 private:
  const Device &device_;
  const Constants &constants_;
  const double scalar_, rate_;
};

}  // namespace lily::cuda
