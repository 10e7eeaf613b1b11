// Occupancy, limited by threads and shared memory. The PTX does not contain register counts, so the occupancy on a GPU
// may be lower.
#pragma once

#include <cstddef>

#include "runtime/registration.h"

namespace lily::emulator::runtime {

int blocks_per_multiprocessor(const Function &function, int block_threads, size_t dynamic_shared_bytes);
int max_threads_per_block(const Function &function);

}  // namespace lily::emulator::runtime
