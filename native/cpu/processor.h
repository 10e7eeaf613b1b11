// What the processor can do, and how much of it this process may use.
#pragma once

#include <stdint.h>

#include <string>

#include "cpu/kernels.h"

namespace lily::cpu {

struct InstructionSet {
  const char *name;        // "portable", "avx2", "avx512"
  const Kernels *kernels;  // null: `error` says why
  std::string error;
};

// The widest instruction set of this processor, or the one that LILY_CPU_ISA names.
const InstructionSet &instruction_set();

// The least of affinity, cgroup quota and physical cores; 1 at least.
int default_thread_count();

std::string processor_name();
uint64_t memory_bytes();

}  // namespace lily::cpu
