// Allocations of the runtime, on top of the registry in core/device_memory.h.
#pragma once

#include <string>
#include <vector>

namespace lily::emulator::runtime {

std::vector<std::string> live_memory(int device);
void release_memory(int device);

}  // namespace lily::emulator::runtime
