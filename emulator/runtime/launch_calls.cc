// Functions that launch kernels, including those that nvcc generates calls to for <<<>>>.
#include "runtime/call.h"
#include "runtime/default_stream.h"
#include "runtime/launch.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define __cudaLaunchKernel __cudaLaunchKernel_ptsz
#endif

namespace {

cudaError_t launch_in(cudaStream_t handle, const LaunchRequest &request) {
  return with_stream(handle, [&](Stream &stream) { return launch_kernel(stream, request); });
}

}  // namespace

extern "C" {

cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t dynamic_shared_bytes,
                             cudaStream_t stream) {
  return call(__func__, [&] { return launch_in(stream, {host, grid, block, arguments, dynamic_shared_bytes}); });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t dynamic_shared_bytes, cudaStream_t stream) {
  return call("cudaLaunchKernel", [&] {
    return launch_in(stream, {static_cast<const void *>(kernel), grid, block, arguments, dynamic_shared_bytes});
  });
}

cudaError_t cudaLaunchCooperativeKernel(const void *host, dim3 grid, dim3 block, void **arguments,
                                        size_t dynamic_shared_bytes, cudaStream_t stream) {
  return call(__func__, [&] { return launch_in(stream, {host, grid, block, arguments, dynamic_shared_bytes, true}); });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *host, void **arguments) {
  return call(__func__, [&] {
    LaunchRequest request{host, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes};
    read_attributes(*config, &request);
    return launch_in(config->stream, request);
  });
}

}  // extern "C"
