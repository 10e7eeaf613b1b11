// The tasks of one call of parallel_for, which the threads of a pool claim. The pool decides how its threads start,
// sleep and wake: thread_pool.cc has the one of native code, wasm/thread_pool.cc the one of WebAssembly.
#pragma once

#include <stdint.h>

#include <atomic>
#include <memory>

#include "cpu/thread_pool.h"

namespace lily::cpu {

class WorkQueue {
 public:
  explicit WorkQueue(int threads) : threads_(threads), shares_(new Share[threads]) {}

  // Sets the tasks of the next call. Every task of the call before must be complete. The threads may be told of them
  // when it returns.
  void set(int64_t count, Task task, const void *context) {
    task_ = task;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    for (int64_t i = 0; i < threads_; ++i) shares_[i].set(count * i / threads_, count * (i + 1) / threads_);
  }

  // A worker runs its own share first, which covers the same data from call to call, so that it is in the cache of the
  // core. Then it runs tasks that slower workers have not claimed. task_ and context_ may be read only after a claim:
  // the caller of set() waits for every claimed task, so they cannot change before the task is complete.
  void work(int64_t worker) {
    for (int64_t i = 0; i < threads_; ++i) {
      Share &share = shares_[(worker + i) % threads_];
      for (int64_t index = share.claim(); index >= 0; index = share.claim()) {
        task_(context_, index, worker);
        done_.fetch_add(1, std::memory_order_release);
      }
    }
  }

  // The number of complete tasks.
  int64_t done() const { return done_.load(std::memory_order_acquire); }

 private:
  // The tasks of a call that are assigned to one worker: the end of their range in the high 32 bits, the next task in
  // the low 32 bits, so that one compare-and-swap claims a task.
  class alignas(64) Share {
   public:
    void set(int64_t begin, int64_t end) {
      ticket_.store(static_cast<uint64_t>(end) << 32 | static_cast<uint64_t>(begin), std::memory_order_release);
    }

    // Returns the claimed task, or -1 if none is left.
    int64_t claim() {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      while ((ticket & kLow) < (ticket >> 32)) {
        if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
          return static_cast<int64_t>(ticket & kLow);
        }
      }
      return -1;
    }

   private:
    static constexpr uint64_t kLow = 0xffffffffu;
    std::atomic<uint64_t> ticket_{0};
  };

  const int64_t threads_;
  const std::unique_ptr<Share[]> shares_;
  std::atomic<int64_t> done_{0};
  Task task_ = nullptr;
  const void *context_ = nullptr;
};

}  // namespace lily::cpu
