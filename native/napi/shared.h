// A reference-counted object. It replaces std::shared_ptr, whose code requires glibc 2.32.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace lily::napi {

template <typename T>
class Shared {
 public:
  Shared() = default;
  Shared(std::nullptr_t) {}
  Shared(const Shared &other) : block_(other.block_) {
    if (block_ != nullptr) block_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  Shared(Shared &&other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Shared &operator=(Shared other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Shared() {
    if (block_ != nullptr && block_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete block_;
  }

  template <typename... Arguments>
  static Shared make(Arguments &&...arguments) {
    Shared made;
    made.block_ = new Block(std::forward<Arguments>(arguments)...);
    return made;
  }

  T *operator->() const { return &block_->value; }
  T &operator*() const { return block_->value; }
  bool operator==(std::nullptr_t) const { return block_ == nullptr; }

 private:
  struct Block {
    template <typename... Arguments>
    explicit Block(Arguments &&...arguments) : value(std::forward<Arguments>(arguments)...) {}
    std::atomic<int> owners{1};
    T value;
  };
  Block *block_ = nullptr;
};

}  // namespace lily::napi
