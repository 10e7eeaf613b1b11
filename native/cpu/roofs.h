// Measures the roofs of the processor on all threads: the best of several repetitions with random numbers.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

// FLOP/s of the multiply-adds with which `kernels` compute the large products.
double measure_product_roof(const Kernels &kernels);

// Bytes/s of reading a buffer again and again, or of adding to it in place (bytes read and bytes written). Every thread
// processes its own part of the buffer. 0 if there is no memory for it.
double measure_memory_roof(const Kernels &kernels, bool updates, size_t bytes);

}  // namespace lily::cpu
