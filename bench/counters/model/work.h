// The work of a launch, from which the model predicts its time: bytes of global memory, and what each block does.
#pragma once

#include <stdint.h>

#include "cuda/tiles/shapes.h"

namespace lily::cuda {

// Blocks that do equal work. Clocks count one multiprocessor.
struct Blocks {
  int64_t count;
  double busy;         // clocks for which a block occupies the matrix units or shared memory, whichever is longer
  double streaming;    // clocks of its main loop if it ran alone, at the latency of its loads
  double serial;       // clocks of its prologue and its tail, which overlap only with other blocks
  int in_flight;       // bytes of its loads that are in flight
  double exposed = 0;  // large ranks: clocks of prologue and tail if the multiprocessor holds no other block
};

struct Work {
  static constexpr int kMostKinds = 5;

  // Bytes of the sectors that the launch touches at least once, as the emulator counts them.
  double read, written;
  double reread;             // bytes that come from memory twice
  double requested;          // bytes of all sectors that blocks request, from L2 or from memory
  Blocks kinds[kMostKinds];  // in the order of the grid
  int kind_count;
  int shared_bytes, registers;  // of a block; per thread
  int threads = kThreads;

  double touched() const { return read + written; }

  void add(const Blocks &blocks) {
    if (blocks.count > 0) kinds[kind_count++] = blocks;
  }
  // An array that is read `times` times.
  void reads(double bytes, double times = 1) {
    read += bytes;
    requested += bytes * times;
  }
  void writes(double bytes) {
    written += bytes;
    requested += bytes;
  }
  void updates(double bytes) {
    reads(bytes);
    writes(bytes);
  }
};

// What the model says of a launch.
struct Prediction {
  int resident;  // blocks per multiprocessor
  double waves;
  double in_flight;  // bytes per multiprocessor
  double seconds;
  // The parts of it that do not overlap with themselves: the traffic of L2, and the blocks' use of the matrix units.
  double l2_seconds, busy_seconds;
};

}  // namespace lily::cuda
