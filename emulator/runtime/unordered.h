// Finds queued work that touches the same bytes, one of them writing, while nothing orders it: whatever the order in
// which it ran this time.
#pragma once

#include <cstddef>
#include <vector>

#include "core/emulator.h"

namespace lily::emulator::runtime {

// Off with LILY_EMULATOR_GLOBAL_RACES=0 and in the fast mode.
bool checks_order();

// Of the operation that is running. The first conflict is a finding.
void note_touched(const std::vector<TouchedPage> &pages);
void note_read(const void *pointer, size_t bytes);
void note_written(const void *pointer, size_t bytes);

// The allocation is gone.
void forget_touched(uint64_t allocation);

}  // namespace lily::emulator::runtime
