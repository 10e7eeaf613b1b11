// The tile registers of AMX, which an operating system gives only to a process that asks for them.
#pragma once

namespace lily::system {

// Returns null if the process may use the registers, otherwise the reason.
const char *request_tile_registers();

}  // namespace lily::system
