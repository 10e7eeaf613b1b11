// Memory pools, as far as a caching allocator uses them: one per device, which retains no memory.
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

// The device of a pool; -1 if the handle is not that of a pool.
int pool_device(cudaMemPool_t pool);

// Graph memory nodes are not emulated: prints a message and invalidates the capture.
cudaError_t reject_memory_node(Stream &stream);

}  // namespace lily::emulator::runtime
