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

// A kernel on one device: attributes belong to a context.
struct Function {
  Kernel kernel;
  int max_dynamic_shared_bytes = 48 << 10;
  int shared_carveout = -1;
};

// On the current device; null when there is none.
Function *find_function(const void *host);
const char *find_name(const void *host);
// With a null address when there is none.
ModuleVariable find_variable(const void *host);

}  // namespace lily::emulator::runtime
