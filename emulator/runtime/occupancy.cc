#include "runtime/occupancy.h"

#include <algorithm>

#include "runtime/call.h"
#include "runtime/device.h"

namespace lily::emulator::runtime {

int max_threads_per_block(const Function &function) {
  const int bound = static_cast<int>(function.kernel().max_threads_per_block());
  return bound != 0 ? bound : 1024;
}

int blocks_per_multiprocessor(const Function &function, int block_threads, size_t dynamic_shared_bytes) {
  const cudaDeviceProp p = device_properties(current_device_index());
  if (block_threads <= 0 || block_threads > max_threads_per_block(function)) return 0;
  if (dynamic_shared_bytes > static_cast<size_t>(function.max_dynamic_shared_bytes())) return 0;
  const int threads = (block_threads + 31) / 32 * 32;
  int blocks = std::min(p.maxThreadsPerMultiProcessor / threads, p.maxBlocksPerMultiProcessor);
  const size_t shared = function.kernel().static_shared_bytes() + dynamic_shared_bytes + p.reservedSharedMemPerBlock;
  if (shared != 0) blocks = std::min(blocks, static_cast<int>(p.sharedMemPerMultiprocessor / shared));
  return blocks;
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaError_t occupancy(int *blocks, const void *host, int block_threads, size_t dynamic_shared_bytes) {
  const Function *function = find_function(host);
  if (function == nullptr) return cudaErrorInvalidDeviceFunction;
  if (block_threads <= 0) return cudaErrorInvalidValue;
  *blocks = blocks_per_multiprocessor(*function, block_threads, dynamic_shared_bytes);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *host, int block_threads,
                                                          size_t dynamic_shared_bytes) {
  return call(__func__, [&] { return occupancy(blocks, host, block_threads, dynamic_shared_bytes); });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *host, int block_threads,
                                                                   size_t dynamic_shared_bytes, unsigned) {
  return call(__func__, [&] { return occupancy(blocks, host, block_threads, dynamic_shared_bytes); });
}

}  // extern "C"
