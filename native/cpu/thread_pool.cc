#include "cpu/thread_pool.h"

#include <atomic>
#include <charconv>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "cpu/processor.h"
#include "cpu/work_queue.h"
#include "system/environment.h"
#include "system/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lily::cpu {
namespace {

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Iterations that an idle worker spins before it sleeps, about 50 us. The passes of one call follow each other within
// microseconds, and waking a thread takes tens of microseconds.
constexpr int kSpins = 2000;

class ThreadPool {
 public:
  explicit ThreadPool(int threads) : threads_(threads), queue_(threads) {}

  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // Must be called by the thread that acquired the pool.
  void run(int64_t count, Task task, const void *context) {
    start_workers();
    queue_.set(count, task, context);
    call_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    queue_.work(0);
    while (queue_.done() != count) pause();
  }

 private:
  void work_forever(int64_t worker) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t call = call_.load(std::memory_order_acquire);
      for (int spin = 0; spin < kSpins && call == seen; ++spin) {
        pause();
        call = call_.load(std::memory_order_acquire);
      }
      if (call == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return (call = call_.load(std::memory_order_seq_cst)) != seen; });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = call;
      queue_.work(worker);
    }
  }

  // The threads are detached, because the pool lives as long as the process. If a thread cannot be created, the others
  // do its work.
  void start_workers() {
    if (started_) return;
    started_ = true;
    for (int worker = 1; worker < threads_; ++worker) {
      try {
        std::thread([this, worker] { work_forever(worker); }).detach();
      } catch (const std::system_error &) {
        return;
      }
    }
  }

  const int threads_;
  WorkQueue queue_;
  bool started_ = false;
  std::atomic<bool> busy_{false};
  std::atomic<uint64_t> call_{0};  // number of calls of run()
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
};

// Never destroyed, because its threads may run after the static destructors.
std::atomic<ThreadPool *> current_pool{nullptr};

// A forked child has none of the threads, and the mutex may have been locked at the time of the fork. The child creates
// a new pool.
void forget_pool() { current_pool.store(nullptr, std::memory_order_release); }

ThreadPool &pool() {
  ThreadPool *existing = current_pool.load(std::memory_order_acquire);
  if (existing != nullptr) return *existing;
  [[maybe_unused]] static const bool registered = (system::after_fork(forget_pool), true);
  std::unique_ptr<ThreadPool> fresh(new ThreadPool(thread_count()));
  if (current_pool.compare_exchange_strong(existing, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
  return *existing;
}

int requested_threads() {
  const std::string text = system::environment_variable("LILY_NUM_THREADS");
  if (text.empty()) return default_thread_count();
  // Not strtol: compiled with the headers of a recent glibc, it requires that version at run time.
  int value = 0;
  const char *const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end && value >= 1 && value <= kMaxThreads ? value : 0;
}

thread_local bool runs_serially = false;

}  // namespace

SerialScope::SerialScope(bool serial) { runs_serially = serial; }
SerialScope::~SerialScope() { runs_serially = false; }

int thread_count() {
  static const int count = requested_threads();
  return count;
}

void parallel_for(int64_t count, Task task, const void *context) {
  if (count > 1 && thread_count() > 1 && !runs_serially) {
    ThreadPool &shared = pool();
    if (shared.try_acquire()) {
      shared.run(count, task, context);
      shared.release();
      return;
    }
  }
  for (int64_t index = 0; index < count; ++index) task(context, index, 0);
}

}  // namespace lily::cpu
