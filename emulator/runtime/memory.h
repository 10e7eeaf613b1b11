// Allocations of the runtime, on top of the registry that kernels are checked against.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

#include "core/device_memory.h"

namespace lily::emulator::runtime {

// Null when the device's limit or the host's memory is reached.
void *allocate(size_t bytes, MemoryKind kind, int device);

bool release(void *pointer, int device);

// Whether release() would succeed; a finding when the memory was freed before.
bool can_release(const void *pointer, int device);

bool is_host_pinned(const void *pointer);

std::vector<std::string> live_memory(int device);
void release_memory(int device);

}  // namespace lily::emulator::runtime
