// Functions that loads, stores and asynchronous copies share.
#pragma once

#include <string>

#include "core/block.h"

namespace lily::emulator {

struct MemoryLocation {
  uint8_t *data = nullptr;
  uint8_t *state = nullptr;  // a ByteState for each byte; null if bytes are not tracked
  Space space = Space::kGlobal;
  uint64_t offset = 0;
  Allocation *allocation = nullptr;
};

// Locates the memory and runs all checks of an access.
MemoryLocation access_memory(Thread &thread, const Instruction &in, Space space, uint64_t address, uint32_t bytes,
                             RaceAccess access);

std::string describe_access(uint32_t bytes, bool write);  // "read of 4 bytes at "
std::string hexadecimal(uint64_t value);

}  // namespace lily::emulator
