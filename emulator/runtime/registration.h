// The kernels and variables of the program, by the host addresses that nvcc's code registers.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/emulator.h"

namespace lily::emulator::runtime {

struct FatBinary;

// A kernel on one device: attributes belong to a context. Its code is read when it is asked for: a library sets
// attributes of all its kernels, and a program launches few.
class Function {
 public:
  Function(const Module &module, std::string name) : module_(module), name_(std::move(name)) {}

  // Ends the process where the code is not emulated, or leaves no room for the dynamic shared memory that was allowed.
  const Kernel &kernel() const;

  // Without being asked for.
  static constexpr int kDynamicSharedBytes = 48 << 10;
  int max_dynamic_shared_bytes = kDynamicSharedBytes;
  int shared_carveout = -1;

 private:
  const Module &module_;
  const std::string name_;
  mutable std::optional<Kernel> kernel_;
};

// On the current device; null when there is none.
Function *find_function(const void *host);
const char *find_name(const void *host);
// With a null address when there is none.
ModuleVariable find_variable(const void *host);

}  // namespace lily::emulator::runtime
