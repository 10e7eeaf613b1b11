// Properties of the processor: its instruction sets, and the number of threads that this process should use.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace lily::cpu {

struct InstructionSet {
  const char *name;        // "portable", "avx2", "avx512", "avx512bf16", "amx", "amx-model", "neon"
  const Kernels *kernels;  // null: not available, see `error`
  const Kernels *pairs;    // kernels that multiply pairs of bfloat16; null: the set has none
  const Kernels *tiles;  // kernels that multiply tiles of bfloat16, which require a permission; null: the set has none
  const Kernels *terms;  // kernels for float32 as sums of bfloat16 numbers, on the tiles; null: the set has none
  int64_t least_terms_rank;  // with a smaller rank, `terms` gain too little
  std::string error;

  // The kernels for the data types, the precision and the rank of a problem. They do not depend on the number of
  // tokens, because the results of a sequence must not. Pairs and tiles round float32 parameters to bfloat16, which
  // precision `high` does not allow; terms round float32 operands, which only precision `tf32` allows.
  const Kernels &kernels_for(const lily_problem &problem) const;
  const Kernels &kernels_for(const lily_linear_problem &problem) const;

  // Request the permission of the tiles on first use. Without it, the set works as the next narrower one.
  const Kernels &bfloat16_kernels() const;
  const Kernels &terms_kernels() const;

  // The name, or the next narrower set if the permission was refused.
  const char *effective_name() const;

 private:
  // `rank`: the smallest dimension of the products besides the number of tokens.
  const Kernels &kernels_for(int32_t activation_dtype, int32_t parameter_dtype, int32_t precision, int64_t rank) const;
};

// The widest instruction set that this processor supports, or the one that LILY_CPU_ISA selects.
const InstructionSet &instruction_set();

// Whether the vector kernels multiply in cache blocks above rank kSmallRank, instead of with the register tile alone:
// on Intel's processors, where a prototype was faster so, and not on AMD's, where it is not. LILY_CPU_BLOCKS=1 or 0
// decides instead, for tests and measurements.
bool multiplies_in_blocks();

// The names of the sets that this processor supports, narrowest first.
std::vector<const char *> supported_instruction_sets();

// The minimum of the limits of threads (system/processor.h), and of 256; at least 1.
int default_thread_count();

}  // namespace lily::cpu
