#include "napi/backends.h"

#include <atomic>

#include "lily/cpu.h"
#include "napi/cuda_library.h"
#include "napi/exports.h"
#include "napi/self_test.h"
#include "napi/values.h"

namespace lily::napi {
namespace {

std::atomic<const lily_backend *> opened{nullptr};

const CudaLibrary &cuda() {
  // Never destroyed: finalizers of the addon can run late.
  static const CudaLibrary *const library = [] {
    const auto *const found = new CudaLibrary(open_cuda_library());
    opened = found->backend;
    return found;
  }();
  return *library;
}

Napi::Object describe(Napi::Env env, const lily_backend &backend) {
  Napi::Object entry = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
  int32_t count = 0;
  const lily_status status = backend.device_count(&count);
  entry.Set("name", backend.name);
  entry.Set("available", status == LILY_OK);
  if (status != LILY_OK) entry.Set("reason", backend.last_error());
  uint32_t usable = 0;
  for (int32_t device = 0; device < count; ++device) {
    lily_device_info found;
    if (backend.device_info(device, &found) != LILY_OK) {
      entry.Set("reason", backend.last_error());
      continue;
    }
    if (&backend != lily_cpu_backend() && !self_test_failure(device).empty()) {
      entry.Set("reason", self_test_failure(device));
      continue;
    }
    Napi::Object described = Napi::Object::New(env);
    described.Set("id", device);
    described.Set("name", found.name);
    described.Set("detail", found.detail);
    described.Set("without", found.without);
    described.Set("memoryBytes", static_cast<double>(found.memory_bytes));
    described.Set("cacheBytes", static_cast<double>(found.cache_bytes));
    described.Set("parallelism", found.parallelism);
    devices[usable++] = described;
  }
  if (usable == 0) entry.Set("available", false);
  entry.Set("devices", devices);
  return entry;
}

}  // namespace

const lily_backend *backend_by_number(int64_t number) { return number == 0 ? lily_cpu_backend() : cuda().backend; }

const std::string &cuda_absence() { return cuda().absence; }

const lily_backend *opened_cuda_backend() { return opened; }

Napi::Value backends(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Array all = Napi::Array::New(env);
  all[0u] = describe(env, *lily_cpu_backend());
  if (cuda().backend != nullptr) {
    all[1u] = describe(env, *cuda().backend);
    return all;
  }
  Napi::Object absent = Napi::Object::New(env);
  absent.Set("name", "cuda");
  absent.Set("available", false);
  absent.Set("reason", cuda().absence);
  absent.Set("devices", Napi::Array::New(env));
  all[1u] = absent;
  return all;
}

Napi::Value processor(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  lily_processor found;
  lily_cpu_processor(&found);
  Napi::Object described = Napi::Object::New(env);
  described.Set("instructionSets", found.instruction_sets);
  described.Set("affinity", found.affinity);
  described.Set("quota", found.quota);
  described.Set("physicalCores", found.physical_cores);
  described.Set("amxRefusal", found.amx_refusal);
  return described;
}

// (backend, device, roof, bytes) -> rate
Napi::Value measure_roof(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  // Larger than any cache, and small enough to allocate.
  constexpr int64_t kMaxRoofBytes = int64_t{1} << 32;
  const lily_backend &backend = available_backend(env, double_argument(info, 0));
  const int32_t device = usable_device_of(env, backend, double_argument(info, 1));
  const int64_t roof = whole_number(env, double_argument(info, 2), LILY_ROOF_MULTIPLY_ADD, LILY_ROOF_PRODUCT, "roof");
  const int64_t bytes = whole_number(env, double_argument(info, 3), 0, kMaxRoofBytes, "byteLength");
  double rate = 0.0;
  check(env, backend, backend.measure_roof(device, static_cast<int32_t>(roof), static_cast<size_t>(bytes), &rate));
  return Napi::Number::New(env, rate);
}

}  // namespace lily::napi
