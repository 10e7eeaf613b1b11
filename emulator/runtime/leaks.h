// What the program has made and not given back.
#pragma once

#include <cstdint>
#include <string>

namespace lily::emulator::runtime {

uint64_t calls_so_far();

// "a stream made by call 17": LILY_EMULATOR_VERBOSE=2 shows which call that is.
inline std::string describe_call(const std::string &what) {
  return what + " made by call " + std::to_string(calls_so_far());
}

// At exit: each is a finding.
void report_leaks();

// cudaDeviceReset.
void release_all(int device);

}  // namespace lily::emulator::runtime
