// Findings of the runtime and of kernels. Each is printed when it occurs; a process with findings exits with code 99.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace lily::emulator::runtime {

constexpr int kFindingExitCode = 99;
// Anything that is not emulated (a binary without PTX, an unsupported function) ends the process immediately.
constexpr int kUnsupportedExitCode = 98;

struct RuntimeFinding {
  std::string kind;  // one or two words, such as "use after free"; empty if the text already begins with it
  std::string text;  // what happened and, for a kernel, where
};

void report(const RuntimeFinding &finding);

// Reports the finding and makes all later calls on the device fail with the error, as after a sticky error on a GPU.
void report_and_fail(int device, cudaError_t error, const RuntimeFinding &finding);

[[noreturn]] void unsupported(const std::string &what);

}  // namespace lily::emulator::runtime
