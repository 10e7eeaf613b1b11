// Copy and memset functions.
#include "runtime/call.h"
#include "runtime/copy.h"
#include "runtime/default_stream.h"
#include "runtime/registration.h"

using namespace lily::emulator;
using namespace lily::emulator::runtime;

namespace {

cudaError_t copy_in(cudaStream_t handle, const Rectangle &rectangle, bool wait) {
  return with_stream(handle, [&](Stream &stream) { return copy(stream, rectangle, wait); });
}

cudaError_t copy_to_symbol(cudaStream_t handle, const void *symbol, const void *from, size_t bytes, size_t offset,
                           cudaMemcpyKind kind, bool wait) {
  const ModuleVariable variable = find_variable(symbol);
  if (variable.address == nullptr) return cudaErrorInvalidSymbol;
  void *to = static_cast<char *>(variable.address) + offset;
  return copy_in(handle, {.to = to, .from = from, .width = bytes, .kind = kind}, wait);
}

cudaError_t copy_from_symbol(cudaStream_t handle, void *to, const void *symbol, size_t bytes, size_t offset,
                             cudaMemcpyKind kind, bool wait) {
  const ModuleVariable variable = find_variable(symbol);
  if (variable.address == nullptr) return cudaErrorInvalidSymbol;
  const void *from = static_cast<const char *>(variable.address) + offset;
  return copy_in(handle, {.to = to, .from = from, .width = bytes, .kind = kind}, wait);
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_in(nullptr, {.to = to, .from = from, .width = bytes, .kind = kind}, true); });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&] { return copy_in(stream, {.to = to, .from = from, .width = bytes, .kind = kind}, false); });
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_in(nullptr, {to, to_pitch, from, from_pitch, width, height, kind}, true); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&] { return copy_in(stream, {to, to_pitch, from, from_pitch, width, height, kind}, false); });
}

cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_to_symbol(nullptr, symbol, from, bytes, offset, kind, true); });
}

cudaError_t cudaMemcpyToSymbolAsync(const void *symbol, const void *from, size_t bytes, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&] { return copy_to_symbol(stream, symbol, from, bytes, offset, kind, false); });
}

cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_from_symbol(nullptr, to, symbol, bytes, offset, kind, true); });
}

cudaError_t cudaMemcpyFromSymbolAsync(void *to, const void *symbol, size_t bytes, size_t offset, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
  return call(__func__, [&] { return copy_from_symbol(stream, to, symbol, bytes, offset, kind, false); });
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
  return call(__func__, [&] {
    return with_stream(nullptr, [&](Stream &stream) { return fill(stream, to, 0, value, bytes, 1); });
  });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) { return fill(stream, to, 0, value, bytes, 1); });
  });
}

cudaError_t cudaMemset2D(void *to, size_t pitch, int value, size_t width, size_t height) {
  return call(__func__, [&] {
    return with_stream(nullptr, [&](Stream &stream) { return fill(stream, to, pitch, value, width, height); });
  });
}

cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height, cudaStream_t handle) {
  return call(__func__, [&] {
    return with_stream(handle, [&](Stream &stream) { return fill(stream, to, pitch, value, width, height); });
  });
}

}  // extern "C"
