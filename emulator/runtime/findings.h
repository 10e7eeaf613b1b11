// Findings of the runtime and of kernels: printed when they are made, remembered, and the end of the process with code
// 99 at its exit.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace lily::emulator::runtime {

constexpr int kFindingExitCode = 99;
// What cannot be emulated at all (a binary without PTX, an unsupported function) ends the process at once.
constexpr int kUnsupportedExitCode = 98;

struct RuntimeFinding {
  std::string kind;  // in a word or two: "use after free"; empty where the text begins with it
  std::string text;  // what happened and, in a kernel, where
};

void report(const RuntimeFinding &finding);

// Reports and makes all later calls on the device fail with the error, as a GPU would.
void report_and_break(int device, cudaError_t error, const RuntimeFinding &finding);

uint64_t findings_so_far();

[[noreturn]] void unsupported(const std::string &what);

}  // namespace lily::emulator::runtime
