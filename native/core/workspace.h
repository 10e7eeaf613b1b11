// Lays out several arrays in one workspace. With a null base, the same code computes the size only.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <algorithm>

namespace lily {

class Workspace {
 public:
  // The size of a cache line and of the widest vector, and the alignment that the ABI requires of a workspace.
  static constexpr size_t kAlignment = 64;

  // Bytes rounded up to a multiple of the alignment.
  static constexpr uint64_t padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  explicit Workspace(void *base) : base_(static_cast<char *>(base)) {}

  // Returns the next `count` elements, or null if the base is null.
  template <typename T>
  T *take(int64_t count) {
    T *array = base_ == nullptr ? nullptr : reinterpret_cast<T *>(base_ + bytes_);
    bytes_ += padded(static_cast<uint64_t>(count) * sizeof(T));
    return array;
  }

  // A size that no allocation has if size_t, of 32 bits in WebAssembly, is too small for it.
  size_t bytes() const { return static_cast<size_t>(std::min<uint64_t>(bytes_, SIZE_MAX)); }

 private:
  char *base_;
  uint64_t bytes_ = 0;
};

}  // namespace lily
