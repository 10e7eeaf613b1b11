// The instruction set of a module: the one that it was compiled for. The engine has compiled it for the processor,
// which the module does not see.
#include "cpu/processor.h"

namespace lily::cpu {

const InstructionSet &instruction_set() {
#if defined(__wasm_relaxed_simd__)
  constexpr const char *kName = "wasm-relaxed";
#else
  constexpr const char *kName = "wasm";
#endif
  static const InstructionSet set = {kName, &kKernelsPortable, nullptr, nullptr, nullptr, 0, ""};
  return set;
}

const Kernels &InstructionSet::kernels_for(const lily_problem &) const { return *kernels; }
const Kernels &InstructionSet::kernels_for(const lily_linear_problem &) const { return *kernels; }
const Kernels &InstructionSet::bfloat16_kernels() const { return *kernels; }
const Kernels &InstructionSet::terms_kernels() const { return *kernels; }
const char *InstructionSet::effective_name() const { return name; }

bool multiplies_in_blocks() { return false; }

std::vector<const char *> supported_instruction_sets() { return {instruction_set().name}; }

int default_thread_count() { return 1; }

}  // namespace lily::cpu
