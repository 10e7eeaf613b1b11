#include "cuda/device.h"

#include <cuda.h>  // the types of the driver API; its functions are not linked
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <mutex>
#include <unordered_map>

#include "cuda/error.h"

namespace lily::cuda {
namespace {

std::atomic<const Device *> devices[LILY_MAX_DEVICES];
std::mutex devices_mutex;

lily_status attribute(int id, cudaDeviceAttr which, int *value) {
  return report(cudaDeviceGetAttribute(value, which, id), "reading the device attributes");
}

// Lowers a property that plans depend on to the number in a variable, so that tests reach the plans of smaller GPUs.
lily_status lower(const char *variable, long long *property) {
  const char *text = getenv(variable);
  if (text == nullptr || *text == '\0') return LILY_OK;
  // Not strtoll, which binds the library to glibc 2.38 where it is compiled with a later one.
  const char *text_end = text + strlen(text);
  long long value = 0;
  const auto [end, error] = std::from_chars(text, text_end, value);
  if (error != std::errc() || end != text_end || value < 1)
    return fail(LILY_ERROR_UNAVAILABLE, "%s must be a positive integer; change it or unset it", variable);
  *property = std::min(*property, value);
  return LILY_OK;
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
  // Some virtual GPUs report no clocks: any plausible ratio between them gives a usable plan.
  found->clock_hz = clock_khz > 0 ? 1e3 * clock_khz : 1.5e9;
  found->dram_bytes_per_second =
      memory_khz > 0 && bus_bits > 0 ? 2e3 * memory_khz * bus_bits / 8 : 8.0 * found->multiprocessors * 1e9;
  long long multiprocessors = found->multiprocessors, l2 = l2_bytes;
  if (status == LILY_OK) status = lower("LILY_CUDA_MULTIPROCESSORS", &multiprocessors);
  if (status == LILY_OK) status = lower("LILY_CUDA_L2", &l2);
  // Fewer multiprocessors count with their share of the bandwidth of memory.
  found->dram_bytes_per_second *= static_cast<double>(multiprocessors) / std::max(found->multiprocessors, 1);
  found->multiprocessors = static_cast<int>(multiprocessors);
  found->l2_bytes = static_cast<size_t>(l2);
  return status;
}

// Functions of the driver API: cuFuncLoad, and those on primary contexts. The runtime has none that leaves the thread's
// current device as it was: since CUDA 12, cudaSetDevice creates a context, also where it restores the previous device.
struct Driver {
  decltype(&cuDeviceGet) get_device;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuDevicePrimaryCtxGetState) get_state;
  decltype(&cuCtxGetId) get_id;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
  decltype(&cuFuncLoad) load;
};

template <typename Function>
lily_status find(const char *symbol, Function *function) {
  constexpr unsigned kVersion = 12040;  // the first with cuFuncLoad
  void *found = nullptr;
  LILY_TRY(report(cudaGetDriverEntryPointByVersion(symbol, &found, kVersion, cudaEnableDefault, nullptr),
                  "finding a function of the driver"));
  if (found == nullptr) return fail(LILY_ERROR_UNAVAILABLE, "the NVIDIA driver has no %s; update it", symbol);
  *function = reinterpret_cast<Function>(found);
  return LILY_OK;
}

Driver driver;
std::mutex driver_mutex;
std::atomic<bool> has_driver{false};

lily_status find_driver() {
  if (has_driver.load(std::memory_order_acquire)) return LILY_OK;
  const std::lock_guard<std::mutex> lock(driver_mutex);
  if (has_driver.load(std::memory_order_relaxed)) return LILY_OK;
  LILY_TRY(find("cuDeviceGet", &driver.get_device));
  LILY_TRY(find("cuDevicePrimaryCtxRetain", &driver.retain));
  LILY_TRY(find("cuDevicePrimaryCtxGetState", &driver.get_state));
  LILY_TRY(find("cuCtxGetId", &driver.get_id));
  LILY_TRY(find("cuCtxPushCurrent", &driver.push));
  LILY_TRY(find("cuCtxPopCurrent", &driver.pop));
  LILY_TRY(find("cuFuncLoad", &driver.load));
  has_driver.store(true, std::memory_order_release);
  return LILY_OK;
}

// The errors of the driver have the numbers that they have in the runtime.
static_assert(static_cast<int>(CUDA_ERROR_CONTEXT_IS_DESTROYED) == static_cast<int>(cudaErrorContextIsDestroyed));
static_assert(static_cast<int>(CUDA_ERROR_DEVICE_UNAVAILABLE) == static_cast<int>(cudaErrorDevicesUnavailable));
static_assert(static_cast<int>(CUDA_ERROR_OUT_OF_MEMORY) == static_cast<int>(cudaErrorMemoryAllocation));
static_assert(static_cast<int>(CUDA_ERROR_ILLEGAL_ADDRESS) == static_cast<int>(cudaErrorIllegalAddress));

lily_status report_driver(CUresult error, const char *what) { return report(static_cast<cudaError_t>(error), what); }

// The primary context of a device. It stays retained for the life of the process, so its handle stays valid also after
// cudaDeviceReset. The id shows whether it still is the same context.
struct Context {
  std::mutex mutex;
  CUdevice device = 0;
  CUcontext handle = nullptr;  // null: not used yet
  unsigned long long id = 0;
  std::unordered_map<const void *, int> shared_bytes;  // by prepared kernel: how many a block may have
};

// Never destroyed: finalizers and the thread that waits for events can run late.
Context &context_of(int32_t id) {
  static auto *const contexts = new Context[LILY_MAX_DEVICES];
  return contexts[id];
}

// The context of this thread's guard. Guards do not nest.
thread_local Context *entered = nullptr;

// A block may have 48 KiB with its static shared memory, unless the kernel has an attribute that says more.
constexpr int kSharedBytesOfAnyKernel = (48 << 10) - kStaticBytes;

lily_status retain(int32_t id, Context *context) {
  CUcontext handle = nullptr;
  LILY_TRY(report_driver(driver.get_device(&context->device, id), "finding a device"));
  LILY_TRY(report_driver(driver.retain(&handle, context->device), "creating the context of a device"));
  LILY_TRY(report_driver(driver.get_id(handle, &context->id), "reading the id of a context"));
  context->handle = handle;
  return LILY_OK;
}

lily_status check_id(int32_t id, const Context &context, bool *is_lost) {
  unsigned flags = 0;
  int is_active = 0;
  // A reset destroys the context, and its handle may be used only once other code has created it again.
  LILY_TRY(report_driver(driver.get_state(context.device, &flags, &is_active), "reading the state of a context"));
  unsigned long long now = 0;
  const CUresult result = is_active != 0 ? driver.get_id(context.handle, &now) : CUDA_ERROR_CONTEXT_IS_DESTROYED;
  *is_lost = result == CUDA_ERROR_CONTEXT_IS_DESTROYED || result == CUDA_ERROR_INVALID_CONTEXT ||
             (result == CUDA_SUCCESS && now != context.id);
  if (!*is_lost) return report_driver(result, "reading the id of a context");
  char what[96];
  snprintf(what, sizeof what, "cuda:%d was reset by other code of this process (cudaDeviceReset)", id);
  return report(cudaErrorContextIsDestroyed, what);
}

}  // namespace

const Device *device(int32_t id) {
  if (id >= 0 && id < LILY_MAX_DEVICES) {
    if (const Device *cached = devices[id].load(std::memory_order_acquire)) return cached;
  }
  int32_t count = 0;
  if (device_count(&count) != LILY_OK) return nullptr;
  if (id < 0 || id >= count || id >= LILY_MAX_DEVICES) {
    fail(LILY_ERROR_UNAVAILABLE, "there is no CUDA device %d, this machine has %d", id, count);
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(devices_mutex);
  if (const Device *cached = devices[id].load(std::memory_order_acquire)) return cached;
  Device found;
  if (describe(id, &found) != LILY_OK) return nullptr;
  // Drivers that support CUDA 13 also show earlier GPUs.
  if (10 * found.compute_major + found.compute_minor < kLeastCapability) {
    fail(LILY_ERROR_UNAVAILABLE, "cuda:%d has compute capability %d.%d, and the CUDA backend requires %d.%d or later",
         id, found.compute_major, found.compute_minor, kLeastCapability / 10, kLeastCapability % 10);
    return nullptr;
  }
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

DeviceGuard::DeviceGuard(int32_t id) : id_(id) {
  status_ = find_driver();
  if (status_ != LILY_OK) return;
  Context &context = context_of(id);
  {
    const std::lock_guard<std::mutex> lock(context.mutex);
    status_ = context.handle == nullptr ? retain(id, &context) : check_id(id, context, &context_is_lost_);
  }
  if (status_ == LILY_OK) {
    status_ = explain(report_driver(driver.push(context.handle), "entering the context of a device"));
  }
  if (status_ != LILY_OK) return;
  entered = &context;
  has_entered_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (!has_entered_) return;
  entered = nullptr;
  CUcontext popped = nullptr;
  driver.pop(&popped);
}

lily_status DeviceGuard::explain(lily_status status) {
  if (status == LILY_OK) return LILY_OK;
  Context &context = context_of(id_);
  const std::lock_guard<std::mutex> lock(context.mutex);
  const lily_status checked = check_id(id_, context, &context_is_lost_);
  return context_is_lost_ ? checked : status;
}

lily_status prepare_kernel(const void *kernel, int shared_bytes) {
  Context &context = *entered;
  const std::lock_guard<std::mutex> lock(context.mutex);
  auto found = context.shared_bytes.find(kernel);
  if (found == context.shared_bytes.end()) {
    // CUDA loads a kernel lazily: here, so that no launch does.
    cudaFunction_t function = nullptr;
    LILY_TRY(report(cudaGetFuncBySymbol(&function, kernel), "finding a kernel"));
    LILY_TRY(report_driver(driver.load(function), "loading a kernel"));
    // One division of shared memory and L1 for all kernels: a multiprocessor changes it only when it is idle, so that
    // the next launch would wait for the end of the one before.
    LILY_TRY(report(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "setting the preferred shared memory of a kernel"));
    found = context.shared_bytes.emplace(kernel, kSharedBytesOfAnyKernel).first;
  }
  if (found->second >= shared_bytes) return LILY_OK;
  LILY_TRY(report(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
                  "setting the maximum shared memory of a kernel"));
  found->second = shared_bytes;
  return LILY_OK;
}

void forget_contexts() {
  for (int32_t id = 0; id < LILY_MAX_DEVICES; ++id) {
    Context &context = context_of(id);
    const std::lock_guard<std::mutex> lock(context.mutex);
    context.handle = nullptr;
    context.shared_bytes.clear();
  }
}

}  // namespace lily::cuda
