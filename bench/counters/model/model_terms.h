// Terms that the steps of forward and of backward have in common; see model.h.
#pragma once

#include <algorithm>
#include <cmath>

#include "model/model.h"

namespace lily::cuda {

constexpr double kSector = 32;

inline double ceil_of(double a, double b) { return std::ceil(a / b); }

// A linear fit to what ptxas reports for sm_90, within 15 registers; `base` depends on the kernel. launch_bounds of two
// blocks limits them to 255.
inline int registers(int base, int accumulators) { return std::min(255, base + accumulators * 13 / 10); }
constexpr int kLargeProductRegisters = 65, kLargeOuterRegisters = 85;

// Elements per row that a thread block loads at once, four per thread: rows per step, and steps in flight.
struct VectorLoads {
  double step, in_flight, passes;

  VectorLoads(double rows, double columns, int threads = kThreads)
      : step(std::max(1.0, threads / (columns / 4))),
        in_flight(std::clamp(std::floor(rows / step), 1.0, 4.0)),
        passes(ceil_of(rows, step * in_flight)) {}
};

}  // namespace lily::cuda
