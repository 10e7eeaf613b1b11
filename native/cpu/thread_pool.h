// The thread pool. There is one per process, shared by all JavaScript threads.
#pragma once

#include <stdint.h>

namespace lily::cpu {

// Runs task(context, index, worker) for every index in [0, count) and returns when all tasks are complete. `worker` is
// less than thread_count(), and no two tasks run with the same number at the same time, so it selects the scratch
// memory of a task. The calling thread also runs tasks. If `count` is 1, or the pool is busy with a call of another
// thread, the calling thread runs all tasks.
using Task = void (*)(const void *context, int64_t index, int64_t worker);
void parallel_for(int64_t count, Task task, const void *context);

template <typename Function>
void parallel_for(int64_t count, const Function &function) {
  parallel_for(
      count,
      [](const void *context, int64_t index, int64_t worker) {
        (*static_cast<const Function *>(context))(index, worker);
      },
      &function);
}

// While one with `serial` exists, parallel_for on its thread runs all tasks itself: waking a thread takes longer than a
// short call.
class SerialScope {
 public:
  explicit SerialScope(bool serial);
  ~SerialScope();
  SerialScope(const SerialScope &) = delete;
  SerialScope &operator=(const SerialScope &) = delete;
};

// The most threads of the pool. The workspace of every call has scratch memory for each of them, so their number needs
// a limit; few machines have more physical cores.
constexpr int kMaxThreads = 256;

// The number of threads, including the calling one: LILY_NUM_THREADS if it is set, otherwise the minimum of the
// physical cores that the CPU affinity of the process allows, the CPU quota of its cgroup, and kMaxThreads. 0 if
// LILY_NUM_THREADS is not a whole number from 1 to kMaxThreads.
int thread_count();

}  // namespace lily::cpu
