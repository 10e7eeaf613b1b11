// The execution configuration between <<< and >>>: pushed before the arguments are evaluated, popped by the kernel's
// stub.
#include <cuda_runtime_api.h>

#include <vector>

namespace {

struct CallConfiguration {
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  cudaStream_t stream;
};

thread_local std::vector<CallConfiguration> configurations;

}  // namespace

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_shared_bytes, cudaStream_t stream) {
  configurations.push_back({grid, block, dynamic_shared_bytes, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *dynamic_shared_bytes, void *stream) {
  if (configurations.empty()) return cudaErrorMissingConfiguration;
  const CallConfiguration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *dynamic_shared_bytes = last.dynamic_shared_bytes;
  *static_cast<cudaStream_t *>(stream) = last.stream;
  return cudaSuccess;
}

}  // extern "C"
