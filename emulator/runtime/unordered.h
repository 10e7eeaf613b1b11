// Finds pieces of queued work that access the same bytes, at least one of them writing, without any order between them,
// regardless of the order in which they ran.
#pragma once

#include <cstddef>
#include <vector>

#include "core/emulator.h"

namespace lily::emulator::runtime {

// Disabled by LILY_EMULATOR_GLOBAL_RACES=0 and in fast mode.
bool checks_order();

// These record accesses of the running operation. The first conflict is reported as a finding.
void note_touched(const std::vector<TouchedPage> &pages);
void note_read(const void *pointer, size_t bytes);
void note_written(const void *pointer, size_t bytes);

// The allocation was freed.
void forget_accesses(uint64_t allocation);

}  // namespace lily::emulator::runtime
