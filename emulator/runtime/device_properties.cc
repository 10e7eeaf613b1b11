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
  int blocks;      // per multiprocessor
};

constexpr Limits kLimits[] = {
    {70, 96, 96, 2048, 32},  // CUDA 13 compiles for no earlier one than 75, but drivers show it
    {75, 64, 64, 1024, 16},    {80, 164, 163, 2048, 32},  {86, 100, 99, 1536, 16},  {87, 164, 163, 1536, 16},
    {88, 100, 99, 1536, 16},   {89, 100, 99, 1536, 24},   {90, 228, 227, 2048, 32}, {100, 228, 227, 2048, 32},
    {103, 228, 227, 2048, 32}, {110, 228, 227, 1536, 24}, {120, 100, 99, 1536, 24}, {121, 100, 99, 1536, 24},
};

const Limits &limits() {
  for (const Limits &each : kLimits) {
    if (each.architecture == environment().architecture) return each;
  }
  unsupported("LILY_EMULATOR_ARCH=" + std::to_string(environment().architecture) +
              ": expected 70, 75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120 or 121");
}

}  // namespace

cudaDeviceProp device_properties(int index) {
  const Limits &limit = limits();
  cudaDeviceProp p{};
  snprintf(p.name, sizeof p.name, "Lily emulator sm_%d (CPU)", limit.architecture);
  p.uuid.bytes[0] = static_cast<char>(index + 1);
  p.totalGlobalMem = environment().memory;
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = limit.optin_kib << 10;
  p.sharedMemPerMultiprocessor = limit.shared_kib << 10;
  p.reservedSharedMemPerBlock = limit.architecture >= 80 ? 1 << 10 : 0;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.memPitch = 0x7fffffff;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.maxThreadsPerMultiProcessor = limit.threads;
  p.maxBlocksPerMultiProcessor = limit.blocks;
  p.totalConstMem = 64 << 10;
  p.major = limit.architecture / 10;
  p.minor = limit.architecture % 10;
  p.textureAlignment = 512;
  p.texturePitchAlignment = 32;
  p.multiProcessorCount = environment().multiprocessors;
  p.canMapHostMemory = 1;
  p.concurrentKernels = 1;
  p.pciBusID = index + 1;
  p.asyncEngineCount = 2;
  p.unifiedAddressing = 1;
  p.memoryBusWidth = 384;
  p.l2CacheSize = static_cast<int>(std::min<size_t>(environment().l2, INT32_MAX));
  p.streamPrioritiesSupported = 1;
  p.globalL1CacheSupported = p.localL1CacheSupported = 1;
  p.managedMemory = p.concurrentManagedAccess = 1;
  p.computePreemptionSupported = 1;
  p.canUseHostPointerForRegisteredMem = p.hostRegisterSupported = 1;
  p.cooperativeLaunch = 1;
  p.memoryPoolsSupported = 1;
  p.hostNumaId = -1;
  return p;
}

cudaError_t device_attribute(int *value, cudaDeviceAttr attribute, int index) {
  const cudaDeviceProp p = device_properties(index);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[1]; break;
    case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = static_cast<int>(p.reservedSharedMemPerBlock); break;
    case cudaDevAttrTotalConstantMemory: *value = static_cast<int>(p.totalConstMem); break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxPitch: *value = static_cast<int>(p.memPitch); break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerMultiprocessor; break;
    case cudaDevAttrClockRate: *value = 1000000; break;
    // 12 GB/s per multiprocessor, about as much as GPUs have.
    case cudaDevAttrMemoryClockRate: *value = 125000 * p.multiProcessorCount; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrCanMapHostMemory: *value = p.canMapHostMemory; break;
    case cudaDevAttrConcurrentKernels: *value = p.concurrentKernels; break;
    case cudaDevAttrAsyncEngineCount: *value = p.asyncEngineCount; break;
    case cudaDevAttrUnifiedAddressing: *value = p.unifiedAddressing; break;
    case cudaDevAttrStreamPrioritiesSupported: *value = p.streamPrioritiesSupported; break;
    case cudaDevAttrManagedMemory: *value = p.managedMemory; break;
    case cudaDevAttrConcurrentManagedAccess: *value = p.concurrentManagedAccess; break;
    case cudaDevAttrCooperativeLaunch: *value = p.cooperativeLaunch; break;
    case cudaDevAttrHostRegisterSupported: *value = p.hostRegisterSupported; break;
    case cudaDevAttrCanUseHostPointerForRegisteredMem: *value = p.canUseHostPointerForRegisteredMem; break;
    case cudaDevAttrMemoryPoolsSupported: *value = p.memoryPoolsSupported; break;
    case cudaDevAttrPciBusId: *value = p.pciBusID; break;
    case cudaDevAttrComputeMode: *value = cudaComputeModeDefault; break;
    // Features that the emulator does not have.
    case cudaDevAttrIntegrated:
    case cudaDevAttrEccEnabled:
    case cudaDevAttrTccDriver:
    case cudaDevAttrKernelExecTimeout:
    case cudaDevAttrPciDeviceId:
    case cudaDevAttrPciDomainId:
    case cudaDevAttrIsMultiGpuBoard:
    case cudaDevAttrPageableMemoryAccess:
    case cudaDevAttrPageableMemoryAccessUsesHostPageTables:
    case cudaDevAttrDirectManagedMemAccessFromHost:
    case cudaDevAttrHostNativeAtomicSupported:
    case cudaDevAttrMaxPersistingL2CacheSize:
    case cudaDevAttrMaxAccessPolicyWindowSize:
    case cudaDevAttrClusterLaunch:
    case cudaDevAttrGPUDirectRDMASupported:
    case cudaDevAttrMemoryPoolSupportedHandleTypes: *value = 0; break;
    default: unsupported("cudaDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
  }
  return cudaSuccess;
}

}  // namespace lily::emulator::runtime
