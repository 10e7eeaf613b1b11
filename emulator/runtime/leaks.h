// Resources that the program has created and not released.
#pragma once

#include <cstdint>
#include <string>

namespace lily::emulator::runtime {

uint64_t calls_so_far();

// "a stream created by call 17"; LILY_EMULATOR_VERBOSE=2 prints the numbers of the calls.
inline std::string describe_call(const std::string &what) {
  return what + " created by call " + std::to_string(calls_so_far());
}

// Reports a finding for each resource that is left at exit.
void report_leaks();

// For cudaDeviceReset: releases all resources of the device.
void release_all(int device);

}  // namespace lily::emulator::runtime
