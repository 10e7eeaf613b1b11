// Memory pools, as far as a caching allocator asks: one per device, which keeps nothing.
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

// The device of a pool; -1 for no pool.
int pool_device(cudaMemPool_t pool);

// Graph memory nodes are not emulated: says so and invalidates the capture.
cudaError_t refuse_memory_node(Stream &stream);

}  // namespace lily::emulator::runtime
