// Extracts the PTX from the fat binary that nvcc embeds in a program.
#pragma once

#include <string>

namespace lily::emulator::runtime {

// The PTX for the highest architecture that the emulated one can run. If there is none, ends the process with a message
// that explains how to build the program.
std::string ptx_of(const void *wrapper);

}  // namespace lily::emulator::runtime
