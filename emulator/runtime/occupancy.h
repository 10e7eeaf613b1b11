// How many blocks fit on a multiprocessor, by threads and shared memory. Registers are the compiler's business and are
// not in the PTX: with them it may be fewer.
#pragma once

#include <cstddef>

#include "runtime/registration.h"

namespace lily::emulator::runtime {

int blocks_per_multiprocessor(const Function &function, int block_threads, size_t dynamic_shared_bytes);
int max_threads_per_block(const Function &function);

}  // namespace lily::emulator::runtime
