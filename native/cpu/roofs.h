#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

// The rate of one roof with all threads at work; 0: no memory for the buffer.
double measure_roof(const Kernels &kernels, int32_t roof, size_t bytes);

}  // namespace lily::cpu
