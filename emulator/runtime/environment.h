// What the LILY_EMULATOR_* variables ask for, read once. docs/emulator.md describes each.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace lily::emulator::runtime {

enum class Driver { kPresent, kNone, kOld, kNoDevice };

struct Environment {
  uint32_t seed = 1;   // schedule of warps within a kernel; 0: in order
  uint32_t order = 1;  // order of work across streams; 0: at once, as it is queued
  bool races = true;   // shared memory
  bool global_races = true;
  bool fast = false;     // no checks, blocks spread over threads
  bool leaks = true;     // memory, streams, events and graphs left at exit are findings
  int verbose = 0;       // 1: launches, 2: every runtime call
  std::string counters;  // file that gets the counters as JSON
  int devices = 2;
  int architecture = 80;
  int multiprocessors = 4;
  size_t l2 = size_t{4} << 20;            // second-level cache, as their properties tell it
  size_t memory = size_t{8} << 30;        // per device, as its properties tell it
  size_t memory_limit = size_t{8} << 30;  // per device: what can be allocated before cudaErrorMemoryAllocation
  std::string fail_function;              // with fail_call: counts calls of this function only
  uint64_t fail_call = 0;                 // this call fails, counted from 1; 0: none
  cudaError_t fail_error = cudaErrorUnknown;
  Driver driver = Driver::kPresent;
};

// A variable that cannot be understood ends the process: a typing error must not turn a check off.
const Environment &environment();

}  // namespace lily::emulator::runtime
