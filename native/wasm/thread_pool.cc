// The thread pool of WebAssembly. JavaScript starts its threads, Workers that share the memory of the module: each of
// them calls lily_wasm_work. A thread that does not start, or starts late, takes no part until then: the others do its
// work.
#include "cpu/thread_pool.h"

#include <atomic>

#include "cpu/work_queue.h"
#include "wasm/module.h"

namespace lily::cpu {
namespace {

// Iterations that an idle worker spins before it sleeps, tens of microseconds.
constexpr int kSpins = 20000;

class ThreadPool {
 public:
  explicit ThreadPool(int threads) : queue_(threads) {}

  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // Must be called by the thread that acquired the pool. It spins until the workers are done, because a browser does
  // not let its main thread wait; their last tasks are short.
  void run(int64_t count, Task task, const void *context) {
    queue_.set(count, task, context);
    call_.fetch_add(1, std::memory_order_seq_cst);
    __builtin_wasm_memory_atomic_notify(address_of_call(), -1);
    queue_.work(0);
    while (queue_.done() != count) {
    }
  }

  void work_forever(int64_t worker) {
    constexpr int64_t kForever = -1;
    int32_t seen = 0;
    for (;;) {
      int32_t call = call_.load(std::memory_order_acquire);
      for (int spin = 0; spin < kSpins && call == seen; ++spin) call = call_.load(std::memory_order_acquire);
      while (call == seen) {
        __builtin_wasm_memory_atomic_wait32(address_of_call(), seen, kForever);
        call = call_.load(std::memory_order_seq_cst);
      }
      seen = call;
      queue_.work(worker);
    }
  }

 private:
  int *address_of_call() { return reinterpret_cast<int *>(&call_); }

  WorkQueue queue_;
  std::atomic<bool> busy_{false};
  std::atomic<int32_t> call_{0};  // number of calls of run(), modulo 2^32
  static_assert(sizeof call_ == 4);
};

int threads = 1;
ThreadPool *pool = nullptr;
thread_local bool runs_serially = false;

}  // namespace

SerialScope::SerialScope(bool serial) { runs_serially = serial; }
SerialScope::~SerialScope() { runs_serially = false; }

int thread_count() { return threads; }

void parallel_for(int64_t count, Task task, const void *context) {
  if (count > 1 && pool != nullptr && !runs_serially && pool->try_acquire()) {
    pool->run(count, task, context);
    pool->release();
    return;
  }
  for (int64_t index = 0; index < count; ++index) task(context, index, 0);
}

}  // namespace lily::cpu

void lily_wasm_set_threads(int32_t count) {
  lily::cpu::threads = count;
  if (count > 1) lily::cpu::pool = new lily::cpu::ThreadPool(count);
}

void lily_wasm_work(int32_t worker) { lily::cpu::pool->work_forever(worker); }
