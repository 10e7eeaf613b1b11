// What nvcc puts into a program: the PTX of a fat binary.
#pragma once

#include <string>

namespace lily::emulator::runtime {

// The PTX for the highest architecture that the emulated one can run. Ends the process when there is none, saying how
// to build the program.
std::string ptx_of(const void *wrapper);

}  // namespace lily::emulator::runtime
