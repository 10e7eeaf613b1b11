// Allocations of the runtime, on top of the registry in core/device_memory.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

#include "core/device_memory.h"

namespace lily::emulator::runtime {

// Null if the device's limit is reached or the host is out of memory.
void *allocate(size_t bytes, MemoryKind kind, int device);

bool release(void *pointer, int device);

// True if release() would succeed. Reports a double free as a finding.
bool can_release(const void *pointer, int device);

bool is_host_pinned(const void *pointer);

std::vector<std::string> live_memory(int device);
void release_memory(int device);

}  // namespace lily::emulator::runtime
