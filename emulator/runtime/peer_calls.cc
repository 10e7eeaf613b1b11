// Copies between devices. All devices share one address space, so these are ordinary copies in a stream.
#include "runtime/call.h"
#include "runtime/copy.h"
#include "runtime/device.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaError_t copy_peer(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t handle) {
  if (!is_device(to_device) || !is_device(from_device)) return cudaErrorInvalidDevice;
  Stream *stream = find_stream(handle, false);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  return copy(*stream, {.to = to, .from = from, .width = bytes, .kind = cudaMemcpyDeviceToDevice}, false);
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes) {
  return call(__func__, [&] { return copy_peer(to, to_device, from, from_device, bytes, nullptr); });
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes,
                                cudaStream_t stream) {
  return call(__func__, [&] { return copy_peer(to, to_device, from, from_device, bytes, stream); });
}

}  // extern "C"
