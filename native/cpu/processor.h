// What the processor can do, and how much of it this process may use.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace lily::cpu {

struct InstructionSet {
  const char *name;        // "portable", "avx2", "avx512", "avx512bf16", "neon"
  const Kernels *kernels;  // null: `error` says why
  const Kernels *pairs;    // kernels for products of bfloat16 pairs; null: the set has none
  std::string error;

  // The kernels of a problem's data types. With parameters in float32, pairs round what precision `high` does not.
  const Kernels &kernels_for(const lily_problem &problem) const {
    const bool may_round = problem.parameter_dtype != LILY_FLOAT32 || problem.precision != LILY_PRECISION_HIGH;
    return pairs != nullptr && problem.activation_dtype == LILY_BFLOAT16 && may_round ? *pairs : *kernels;
  }
};

// The widest instruction set of this processor, or the one that LILY_CPU_ISA names.
const InstructionSet &instruction_set();

// The names of the sets that this processor has, narrowest first.
std::vector<const char *> supported_instruction_sets();

// What bounds the threads that are worth having.
struct ThreadLimits {
  int affinity;  // processors that this process may run on
  int quota;     // whole processors of the cgroup's quota; 0: there is none
  int physical_cores;
};
ThreadLimits thread_limits();

// The least of the limits; 1 at least.
int default_thread_count();

std::string processor_name();
uint64_t memory_bytes();
uint64_t cache_bytes();  // of the last level

}  // namespace lily::cpu
