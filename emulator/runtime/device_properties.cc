#include "runtime/device_properties.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"

namespace lily::emulator::runtime {
namespace {

// The limits that differ between architectures, from the table "Technical Specifications per Compute Capability" in
// NVIDIA's CUDA C++ programming guide.
struct Limits {
  int architecture;
  int shared_kib;  // per multiprocessor; a block can have 1 KiB less, which the system reserves
  int optin_kib;   // per block
  int threads;     // per multiprocessor
};

constexpr Limits kLimits[] = {
    {70, 96, 96, 2048},  // CUDA 13 compiles for no earlier one than 75, but drivers show it
    {75, 64, 64, 1024},    {80, 164, 163, 2048},  {86, 100, 99, 1536},  {87, 164, 163, 1536},
    {88, 100, 99, 1536},   {89, 100, 99, 1536},   {90, 228, 227, 2048}, {100, 228, 227, 2048},
    {103, 228, 227, 2048}, {110, 228, 227, 1536}, {120, 100, 99, 1536}, {121, 100, 99, 1536},
};

const Limits &limits() {
  for (const Limits &each : kLimits) {
    if (each.architecture == environment().architecture) return each;
  }
  unsupported("LILY_EMULATOR_ARCH=" + std::to_string(environment().architecture) +
              ": expected 70, 75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120 or 121");
}

}  // namespace

cudaDeviceProp device_properties() {
  const Limits &limit = limits();
  cudaDeviceProp p{};
  snprintf(p.name, sizeof p.name, "Lily emulator sm_%d (CPU)", limit.architecture);
  p.totalGlobalMem = environment().memory;
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = limit.optin_kib << 10;
  p.sharedMemPerMultiprocessor = limit.shared_kib << 10;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.maxThreadsPerMultiProcessor = limit.threads;
  p.major = limit.architecture / 10;
  p.minor = limit.architecture % 10;
  p.multiProcessorCount = environment().multiprocessors;
  p.memoryBusWidth = 384;
  p.l2CacheSize = static_cast<int>(std::min<size_t>(environment().l2, INT32_MAX));
  return p;
}

cudaError_t device_attribute(int *value, cudaDeviceAttr attribute) {
  const cudaDeviceProp p = device_properties();
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrClockRate: *value = 1000000; break;
    // 12 GB/s per multiprocessor, about as much as GPUs have.
    case cudaDevAttrMemoryClockRate: *value = 125000 * p.multiProcessorCount; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    default: unsupported("cudaDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
  }
  return cudaSuccess;
}

}  // namespace lily::emulator::runtime
