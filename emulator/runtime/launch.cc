// Kernel launches, including those that nvcc generates calls to for <<<>>>.
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "runtime/call.h"
#include "runtime/counters_file.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/registration.h"
#include "runtime/stream.h"
#include "runtime/unordered.h"

namespace lily::emulator::runtime {
namespace {

struct LaunchRequest {
  const void *host = nullptr;
  dim3 grid, block;
  void **arguments = nullptr;
  size_t dynamic_shared_bytes = 0;
  bool dependent = false;  // programmatic dependent launch
};

// The error that a GPU returns, or cudaErrorLaunchFailure for mistakes that a GPU does not detect.
cudaError_t error_of(FindingKind kind) {
  switch (kind) {
    case FindingKind::kOutOfBounds:
    case FindingKind::kUseAfterFree: return cudaErrorIllegalAddress;
    case FindingKind::kMisaligned: return cudaErrorMisalignedAddress;
    case FindingKind::kDeadlock:
    case FindingKind::kTimeout: return cudaErrorLaunchTimeout;
    default: return cudaErrorLaunchFailure;
  }
}

LaunchOptions options_for(const LaunchRequest &request) {
  static uint64_t launches = 0;
  const Environment &env = environment();
  LaunchOptions options;
  options.seed = env.seed == 0 ? 0 : env.seed + launches++;  // a different schedule for each launch
  options.checks = !env.fast;
  options.shared_races = env.races;
  options.global_races = env.global_races;
  options.counters = !env.counters.empty();
  options.touched = checks_order() || !env.wrong_kernel.empty();
  // Earlier architectures ignore the attribute.
  options.dependent = request.dependent && env.architecture >= 90;
  if (const OperationPtr &before = running_operation()->follows; options.dependent && before != nullptr)
    options.earlier = before->running;
  options.max_shared_bytes = static_cast<uint32_t>(device_properties().sharedMemPerBlockOptin);
  return options;
}

// Inverts a high bit of what the launch has written, as broken hardware might: of the exponent of floating-point
// numbers.
void spoil(const LaunchResult &result) {
  constexpr uint16_t kBit = 1 << 12;
  for (const TouchedPage &page : result.touched) {
    for (const auto &each : device_memory().live()) {
      if (each->id != page.allocation) continue;
      auto *units = reinterpret_cast<uint16_t *>(each->base + page.page * TouchedPage::kBytes);
      for (size_t i = 0; i < TouchedPage::kUnits; ++i) {
        if (page.written[i]) units[i] ^= kBit;
      }
    }
  }
}

// Grids that a device of compute capability 9.0 runs at the same time.
constexpr size_t kMostResident = 128;

// Notes which launches a dependent one would overlap with.
void note_running(LaunchResult &result, const EarlierLaunches &earlier) {
  Operation &operation = *running_operation();
  if (!checks_order() || environment().architecture < 90) return;
  operation.running.push_back(
      std::make_shared<EarlierLaunch>(EarlierLaunch{operation.name, std::move(result.touched)}));
  if (!result.dependents_start_early) return;
  for (const auto &each : earlier) {
    if (operation.running.size() < kMostResident) operation.running.push_back(each);
  }
}

struct Launch {
  Kernel kernel;
  LaunchRequest request;
  std::vector<char> parameters;
  int device;
  int shared_carveout;
};

void run(const Launch &launched) {
  const LaunchRequest &r = launched.request;
  const std::string &name = launched.kernel.name();
  try {
    const LaunchOptions options = options_for(r);
    LaunchResult result = launch(launched.kernel, {r.grid.x, r.grid.y, r.grid.z}, {r.block.x, r.block.y, r.block.z},
                                 r.dynamic_shared_bytes, launched.parameters.data(), options);
    if (environment().verbose >= 1) {
      const int percent = launched.shared_carveout;
      const std::string carveout = percent >= 0 ? ", carve-out " + std::to_string(percent) + " %" : "";
      fprintf(stderr, "emulator: %s<<<(%u, %u, %u), (%u, %u, %u), %zu>>> %llu instructions%s%s\n", name.c_str(),
              r.grid.x, r.grid.y, r.grid.z, r.block.x, r.block.y, r.block.z, r.dynamic_shared_bytes,
              (unsigned long long)result.instructions, carveout.c_str(), r.dependent ? ", dependent" : "");
    }
    count_launch(name, result.counters);
    const std::string &wrong = environment().wrong_kernel;
    if (!wrong.empty() && readable_name(name).find(wrong) != std::string::npos) spoil(result);
    if (result.ok()) {
      if (checks_order()) note_touched(result.touched);
      note_running(result, options.earlier);
    }
    for (const Finding &each : result.findings) {
      report_and_fail(launched.device, error_of(each.kind), {.kind = {}, .text = each.text()});
    }
  } catch (const Error &error) {
    report_and_fail(launched.device, cudaErrorLaunchFailure,
                    {.kind = "not emulated", .text = name + ": " + error.what()});
  }
}

cudaError_t check_request(const Function &function, const LaunchRequest &r, const cudaDeviceProp &p) {
  const auto fits = [](unsigned value, int limit) { return value >= 1 && value <= static_cast<unsigned>(limit); };
  const bool grid =
      fits(r.grid.x, p.maxGridSize[0]) && fits(r.grid.y, p.maxGridSize[1]) && fits(r.grid.z, p.maxGridSize[2]);
  const bool block =
      fits(r.block.x, p.maxThreadsDim[0]) && fits(r.block.y, p.maxThreadsDim[1]) && fits(r.block.z, p.maxThreadsDim[2]);
  if (!grid || !block) return cudaErrorInvalidConfiguration;
  const uint64_t threads = uint64_t{r.block.x} * r.block.y * r.block.z;
  if (threads > static_cast<uint64_t>(p.maxThreadsPerBlock)) return cudaErrorInvalidConfiguration;
  if (threads > static_cast<uint64_t>(function.max_threads_per_block())) return cudaErrorInvalidValue;
  return r.dynamic_shared_bytes <= static_cast<size_t>(function.max_dynamic_shared_bytes()) ? cudaSuccess
                                                                                            : cudaErrorInvalidValue;
}

cudaError_t launch_kernel(Stream &stream, const LaunchRequest &request) {
  const Function *function = find_function(request.host);
  if (function == nullptr) return cudaErrorInvalidDeviceFunction;
  if (stream.device != current_device_index()) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t error = check_request(*function, request, device_properties())) return error;

  // Arguments are copied at the time of the call.
  std::vector<char> parameters(function->kernel().parameter_bytes());
  const std::vector<Parameter> &layout = function->kernel().parameters();
  for (size_t i = 0; i < layout.size(); ++i) {
    memcpy(parameters.data() + layout[i].offset, request.arguments[i], layout[i].size);
  }
  const auto launched = std::make_shared<Launch>(
      Launch{function->kernel(), request, std::move(parameters), stream.device, function->shared_carveout});
  return enqueue(stream, {.name = "the kernel " + readable_name(function->kernel().name()),
                          .run = [launched] { run(*launched); },
                          .dependent = request.dependent});
}

// Copies the launch attributes into the request.
void read_attributes(const cudaLaunchConfig_t &config, LaunchRequest *request) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute &attribute = config.attrs[i];
    if (attribute.id != cudaLaunchAttributeProgrammaticStreamSerialization)
      unsupported("cudaLaunchKernelExC: launch attribute " + std::to_string(attribute.id) + " is not emulated");
    request->dependent = attribute.val.programmaticStreamSerializationAllowed != 0;
  }
}

cudaError_t launch_in(cudaStream_t handle, const LaunchRequest &request) {
  return with_stream(handle, [&](Stream &stream) { return launch_kernel(stream, request); });
}

}  // namespace
}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t dynamic_shared_bytes, cudaStream_t stream) {
  return call("cudaLaunchKernel", [&] {
    return launch_in(stream, {static_cast<const void *>(kernel), grid, block, arguments, dynamic_shared_bytes});
  });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *host, void **arguments) {
  return call(__func__, [&] {
    LaunchRequest request{host, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes};
    read_attributes(*config, &request);
    return launch_in(config->stream, request);
  });
}

}  // extern "C"
