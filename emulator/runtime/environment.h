// The settings in the LILY_EMULATOR_* variables, read once. emulator/README.md describes each of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace lily::emulator::runtime {

enum class Driver { kPresent, kNone, kOld, kNoDevice };

struct Environment {
  uint32_t seed = 1;   // schedule of warps within a kernel; 0: in order
  uint32_t order = 1;  // order of work across streams; 0: each piece runs when it is queued
  bool races = true;   // checks shared memory
  bool global_races = true;
  bool fast = false;     // bounds checks only, blocks spread over host threads
  bool leaks = true;     // memory, streams, events and graphs left at exit are findings
  int verbose = 0;       // 1: launches, 2: every runtime call
  std::string counters;  // output file for the counters, as JSON
  int devices = 2;
  int architecture = 90;
  int multiprocessors = 4;
  size_t l2 = size_t{4} << 20;            // size of the L2, as reported in the device properties
  size_t memory = size_t{8} << 30;        // per device, as reported in the device properties
  size_t memory_limit = size_t{8} << 30;  // per device: allocations above it fail with cudaErrorMemoryAllocation
  std::string fail_function;              // if set, fail_call counts calls of this function only
  uint64_t fail_call = 0;                 // number of the call that fails, counted from 1; 0: none
  cudaError_t fail_error = cudaErrorUnknown;
  Driver driver = Driver::kPresent;
  std::string control;       // folder of the files with which a program holds work or resets the devices
  std::string wrong_kernel;  // part of the name of the kernels that write wrong results
};

// An unknown variable or an invalid value ends the process: a typing error must not disable a check.
const Environment &environment();

}  // namespace lily::emulator::runtime
