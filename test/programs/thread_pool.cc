// Runs the thread pool alone and prints what a caller must not see. Arguments: what to run, and the number of threads
// that the system can create. LILY_NUM_THREADS is the number of threads of the pool.
#include "cpu/thread_pool.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace lily::cpu {
int default_thread_count() { return 1; }
}  // namespace lily::cpu

static int creatable;

// In place of the C library's.
extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                              void *argument) noexcept {
  if (creatable-- <= 0) return EAGAIN;
  using Create = int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, run, argument);
}

constexpr int kMostTasks = 40;
static std::atomic<int> mistakes{0};
static thread_local const std::thread::id self = std::this_thread::get_id();

static void expect(bool holds, const char *what) {
  if (!holds && mistakes.fetch_add(1) == 0) puts(what);
}

// Returns the number of tasks that other threads than the calling one have run. All tasks sleep, so that these threads
// get some; theirs take longer, so that the caller is the one that waits.
static int run_tasks(int count) {
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> runs[kMostTasks] = {}, busy[lily::cpu::kMaxThreads] = {}, others{0};
  lily::cpu::parallel_for(count, [&](int64_t task, int64_t worker) {
    expect(worker >= 0 && worker < lily::cpu::thread_count(), "the number of a worker is too large");
    expect(busy[worker].fetch_add(1) == 0, "two tasks ran with the number of one worker");
    if (self != caller) others.fetch_add(1);
    usleep(self == caller ? 50 : 400);
    busy[worker].fetch_sub(1);
    runs[task].fetch_add(1);
  });
  for (int task = 0; task < count; ++task) expect(runs[task].load() == 1, "a task was not complete, or ran twice");
  return others.load();
}

static void run_many() {
  for (int call = 0; call < 100; ++call) run_tasks(call % kMostTasks + 1);
}

// Runs calls until another thread takes part. The workers of the process before have had time to go to sleep.
static int run_in_child() {
  usleep(100000);
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    while (run_tasks(kMostTasks) == 0) usleep(1000);
    _exit(mistakes.load() == 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

int main(int count, char **arguments) {
  if (count != 3) return 1;
  creatable = atoi(arguments[2]);
  if (strcmp(arguments[1], "two callers") == 0) {
    ++creatable;
    std::thread other(run_many);
    run_many();
    other.join();
  } else {
    run_many();
    if (strcmp(arguments[1], "fork") == 0) expect(run_in_child() == 0, "the child did not end, or has no threads");
  }
  if (mistakes.load() == 0) puts("right");
}
