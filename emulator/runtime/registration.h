// The kernels of the program, by the host addresses that nvcc's generated code registers.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/emulator.h"

namespace lily::emulator::runtime {

struct FatBinary;

// A kernel on one device (attributes belong to a context). Its code is parsed on first use, because a library loads and
// sets attributes of all its kernels, and a program launches few of them.
class Function {
 public:
  Function(const Module &module, std::string name) : module_(module), name_(std::move(name)) {}

  // The architecture that the PTX was compiled for, such as 90.
  int ptx_architecture() const;
  // CUDA loads kernels lazily: at their first launch, or before it if asked to. Here that is a message only.
  void load() const;
  // Ends the process if the code is not emulated, or if static and dynamic shared memory exceed the limit of a block.
  const Kernel &kernel() const;

  // What cudaFuncAttributeMaxDynamicSharedMemorySize was set to. Without it static and dynamic shared memory together
  // may have 48 KiB.
  std::optional<int> allowed_dynamic_shared_bytes;
  int max_dynamic_shared_bytes() const;
  int max_threads_per_block() const;
  int shared_carveout = -1;

 private:
  const Module &module_;
  const std::string name_;
  mutable std::optional<Kernel> kernel_;
  mutable bool is_loaded_ = false;
};

// On the current device; null if there is none.
Function *find_function(const void *host);
// Resets the attributes of all kernels on a device.
void forget_attributes(int device);

}  // namespace lily::emulator::runtime
