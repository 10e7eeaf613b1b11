// Whether this process may use the tile registers of AMX.
#pragma once

namespace lily::cpu {

// Whether the processor and the operating system have the registers and the products of bfloat16. Asks for nothing.
bool has_amx();

// Asks the system for the registers, once per process: Linux reserves 8 KiB more per thread that is interrupted, and
// from then on refuses signal stacks that are too small for that. So this is called when a product is about to use
// them, not when the addon is loaded. The permission holds for all threads and for forked children.
//
// Returns null if it is granted, otherwise the reason.
const char *amx_refusal();

// Whether amx_refusal has been called.
bool amx_was_requested();

}  // namespace lily::cpu
