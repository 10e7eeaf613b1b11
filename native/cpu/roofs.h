#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

// Measures the rate of one roof on all threads, in the unit of lily_roof. `bytes` is the size of the buffer. Returns 0
// if its allocation fails.
double measure_roof(const Kernels &kernels, int32_t roof, size_t bytes);

}  // namespace lily::cpu
