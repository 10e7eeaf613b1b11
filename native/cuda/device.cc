#include "cuda/device.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>

#include "cuda/error.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

std::atomic<const Device *> devices[kMaxDevices];
std::mutex devices_mutex;

lily_status attribute(int id, cudaDeviceAttr which, int *value) {
  return report(cudaDeviceGetAttribute(value, which, id), "reading the device attributes");
}

lily_status describe(int id, Device *found) {
  int l2_bytes = 0;
  *found = {};
  found->id = id;
  lily_status status = attribute(id, cudaDevAttrComputeCapabilityMajor, &found->compute_major);
  if (status == LILY_OK) status = attribute(id, cudaDevAttrComputeCapabilityMinor, &found->compute_minor);
  if (status == LILY_OK) status = attribute(id, cudaDevAttrMultiProcessorCount, &found->multiprocessors);
  if (status == LILY_OK) status = attribute(id, cudaDevAttrL2CacheSize, &l2_bytes);
  if (status == LILY_OK) {
    status = attribute(id, cudaDevAttrMaxSharedMemoryPerBlockOptin, &found->shared_bytes_per_block);
  }
  if (status == LILY_OK) {
    status = attribute(id, cudaDevAttrMaxSharedMemoryPerMultiprocessor, &found->shared_bytes_per_multiprocessor);
  }
  if (status == LILY_OK) {
    status = attribute(id, cudaDevAttrMaxThreadsPerMultiProcessor, &found->threads_per_multiprocessor);
  }
  int clock_khz = 0, memory_khz = 0, bus_bits = 0;
  if (status == LILY_OK) status = attribute(id, cudaDevAttrClockRate, &clock_khz);
  if (status == LILY_OK) status = attribute(id, cudaDevAttrMemoryClockRate, &memory_khz);
  if (status == LILY_OK) status = attribute(id, cudaDevAttrGlobalMemoryBusWidth, &bus_bits);
  found->l2_bytes = static_cast<size_t>(l2_bytes);
  // Some virtual GPUs report no clocks: any plausible ratio between them gives a usable plan.
  found->clock_hz = clock_khz > 0 ? 1e3 * clock_khz : 1.5e9;
  found->dram_bytes_per_second =
      memory_khz > 0 && bus_bits > 0 ? 2e3 * memory_khz * bus_bits / 8 : 8.0 * found->multiprocessors * 1e9;
  return status;
}

}  // namespace

const Device *device(int32_t id) {
  if (id >= 0 && id < kMaxDevices) {
    if (const Device *cached = devices[id].load(std::memory_order_acquire)) return cached;
  }
  int32_t count = 0;
  if (device_count(&count) != LILY_OK) return nullptr;
  if (id < 0 || id >= count || id >= kMaxDevices) {
    fail(LILY_ERROR_UNAVAILABLE, "there is no CUDA device %d, this machine has %d", id, count);
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(devices_mutex);
  if (const Device *cached = devices[id].load(std::memory_order_acquire)) return cached;
  Device found;
  if (describe(id, &found) != LILY_OK) return nullptr;
  const DeviceGuard guard(id);
  if (guard.status() != LILY_OK || prepare(found) != LILY_OK) return nullptr;
  const Device *kept = new Device(found);
  devices[id].store(kept, std::memory_order_release);
  return kept;
}

lily_status device_count(int32_t *count) {
  *count = 0;
  int found = 0;
  const cudaError_t error = cudaGetDeviceCount(&found);
  if (error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
      return fail(LILY_ERROR_UNAVAILABLE, "no NVIDIA driver was found; install one that supports CUDA %d.%d",
                  runtime / 1000, runtime % 1000 / 10);
    }
    return fail(LILY_ERROR_UNAVAILABLE,
                "the NVIDIA driver is too old: it supports CUDA %d.%d, %d.%d is needed; update it", driver / 1000,
                driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && found == 0)) {
    cudaGetLastError();
    return fail(LILY_ERROR_UNAVAILABLE, "the NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES may hide it");
  }
  if (const lily_status status = report(error, "counting CUDA devices")) return status;
  *count = found;
  return LILY_OK;
}

DeviceGuard::DeviceGuard(int32_t id) {
  status_ = report(cudaGetDevice(&previous_), "reading the current device");
  if (status_ != LILY_OK) return;
  if (previous_ == id) {
    previous_ = -1;  // no device to restore
    return;
  }
  status_ = report(cudaSetDevice(id), "setting the current device");
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

}  // namespace lily::cuda
