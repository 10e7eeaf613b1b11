// The parsed form of a module: kernels as decoded instructions, shared variables, source positions.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/emulator.h"
#include "core/instruction.h"
#include "core/lexer.h"
#include "core/special_registers.h"

namespace lily::emulator {

struct SourcePosition {
  int file = 0, line = 0;                  // file: number of a .file directive; 0: none
  int inlined_file = 0, inlined_line = 0;  // call site of the inlined function
  bool operator==(const SourcePosition &) const = default;
};

struct KernelCode {
  std::string name;
  const ModuleContents *module = nullptr;
  std::vector<Instruction> instructions;
  std::vector<SourcePosition> locations;
  std::deque<std::vector<int32_t>> vectors;  // storage for Operand::elements

  std::vector<uint64_t> initial_registers;  // constants and addresses; 0 for all others
  struct Special {
    int32_t reg;
    SpecialRegister which;
  };
  std::vector<Special> special_registers;

  std::vector<Parameter> parameters;
  size_t parameter_bytes = 0;
  size_t local_bytes = 0;
  size_t static_shared_bytes = 0;
  size_t dynamic_shared_offset = 0;   // where extern shared arrays start
  std::vector<int32_t> accumulators;  // registers that may belong to a warpgroup's product in flight
  uint32_t max_threads = 0;
};

// A shared variable of the module, which each kernel that uses it places.
struct Variable {
  size_t size = 0, alignment = 1;
  bool external = false;  // extern array, sized at launch
};

struct ModuleContents {
  struct Entry {
    KernelText text;
    std::once_flag parsed;  // guards parsing: several host threads may request the kernel at once
    std::unique_ptr<KernelCode> code;
  };
  std::string text;
  std::map<std::string, Entry, std::less<>> kernels;
  std::map<std::string, Variable, std::less<>> variables;
  std::map<int, std::string> files;
  std::string target;
};

SourceLine source_line(const KernelCode &code, const Instruction &in);
SourceLine inlined_at(const KernelCode &code, const Instruction &in);
// "ld.shared.f32 (norm.cu:31, called at norm.cu:77)"
std::string describe(const KernelCode &code, int32_t pc);

}  // namespace lily::emulator
