#include "runtime/registration.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/call.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/fat_binary.h"
#include "runtime/findings.h"

namespace lily::emulator::runtime {

struct FatBinary {
  const void *wrapper = nullptr;
  std::unique_ptr<Module> module;  // parsed at first use
};

namespace {

struct RegisteredFunction {
  FatBinary *binary;
  std::string name;
  std::map<int, Function> on_device;
};

std::map<const void *, RegisteredFunction> &functions() {
  static auto *const functions = new std::map<const void *, RegisteredFunction>;
  return *functions;
}

Module &module_of(FatBinary &binary) {
  if (binary.module == nullptr) {
    try {
      binary.module = Module::parse(ptx_of(binary.wrapper));
    } catch (const Error &error) {
      unsupported(error.what());
    }
  }
  return *binary.module;
}

}  // namespace

Function *find_function(const void *host) {
  const auto found = functions().find(host);
  if (found == functions().end()) return nullptr;
  RegisteredFunction &function = found->second;
  const int index = current_device_index();
  const auto on_device = function.on_device.find(index);
  if (on_device != function.on_device.end()) return &on_device->second;
  const Module &module = module_of(*function.binary);
  if (!module.has_kernel(function.name)) return nullptr;
  return &function.on_device.try_emplace(index, module, function.name).first->second;
}

int Function::ptx_architecture() const { return std::atoi(module_.target().c_str() + std::strlen("sm_")); }

void Function::load() const {
  if (is_loaded_) return;
  is_loaded_ = true;
  if (environment().verbose >= 1) fprintf(stderr, "emulator: loads the kernel %s\n", readable_name(name_).c_str());
}

const Kernel &Function::kernel() const {
  load();
  if (kernel_) return *kernel_;
  try {
    kernel_ = module_.kernel(name_);
  } catch (const Error &error) {
    unsupported(error.what());
  }
  const size_t most = device_properties().sharedMemPerBlockOptin;
  const auto dynamic = static_cast<size_t>(allowed_dynamic_shared_bytes.value_or(0));
  if (dynamic > 0 && kernel_->static_shared_bytes() + dynamic > most) {
    unsupported("cudaFuncSetAttribute: " + std::to_string(dynamic) + " bytes of dynamic shared memory and " +
                std::to_string(kernel_->static_shared_bytes()) + " static bytes of " + readable_name(name_) +
                " exceed the shared memory of a block; a GPU rejects them");
  }
  return *kernel_;
}

int Function::max_threads_per_block() const {
  const int bound = static_cast<int>(kernel().max_threads_per_block());
  return bound != 0 ? bound : 1024;
}

int Function::max_dynamic_shared_bytes() const {
  if (allowed_dynamic_shared_bytes) return *allowed_dynamic_shared_bytes;
  const size_t limit = device_properties().sharedMemPerBlock;
  return static_cast<int>(limit - std::min<size_t>(limit, kernel().static_shared_bytes()));
}

void forget_attributes(int device) {
  for (auto &[host, function] : functions()) function.on_device.erase(device);
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

// Constructors of the program call it, so it parses nothing: a program must also load on a machine that cannot run it.
void **__cudaRegisterFatBinary(void *wrapper) {
  auto *binary = new FatBinary;
  binary->wrapper = wrapper;
  return reinterpret_cast<void **>(binary);
}

void __cudaRegisterFatBinaryEnd(void **) {}

// The kernels may still be queued, and unregistering them at exit has no benefit.
void __cudaUnregisterFatBinary(void **) {}

void __cudaRegisterFunction(void **handle, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *,
                            dim3 *, int *) {
  std::lock_guard<std::mutex> lock(runtime_mutex());
  functions()[host] = {reinterpret_cast<FatBinary *>(handle), name, {}};
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void *>(host));
  return cudaSuccess;
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t *function, const void *host) {
  return call(__func__, [&] {
    *function = reinterpret_cast<cudaFunction_t>(const_cast<void *>(host));
    return find_function(host) != nullptr ? cudaSuccess : cudaErrorInvalidDeviceFunction;
  });
}

}  // extern "C"
