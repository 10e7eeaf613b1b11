// Gives the registers of a kernel new numbers: those that are not needed at the same time share one.
//
// PTX has a register for every value, thousands in a large kernel. Each thread of a block has an array of them, so with
// fewer of them a block starts sooner and its registers stay in the caches.
#pragma once

#include "core/kernel_code.h"

namespace lily::emulator {

// Call once, after all instructions have been decoded and branches have their targets.
void allocate_registers(KernelCode &code);

}  // namespace lily::emulator
