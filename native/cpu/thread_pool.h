// One pool per process, shared by all JavaScript threads.
#pragma once

#include <stdint.h>

namespace lily::cpu {

// Runs task(context, index, worker) for every index in [0, count) and returns when all are done. `worker` is below
// thread_count() and no two tasks run under the same number at once: it names a task's scratch memory. The caller works
// along. A pool that is busy with another thread's call, and a count of one, run on the caller alone.
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

// Threads, the caller included: LILY_NUM_THREADS, else the least of the process's affinity, its cgroup's quota and the
// machine's physical cores. 0: LILY_NUM_THREADS is not a number from 1 to 256.
int thread_count();

}  // namespace lily::cpu
