// Prints the number of processors that a process may run on, and of their physical cores. Arguments: the folder with a
// fake tree, the number of processors that the kernel has room for, the numbers of those that the process may run on.
#include "system/linux/affinity.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t kernel_bytes;
static int allowed_count;
static char **allowed;

// In place of the C library's.
extern "C" int sched_getaffinity(pid_t, size_t bytes, cpu_set_t *set) noexcept {
  if (bytes < kernel_bytes) {
    errno = EINVAL;
    return -1;
  }
  memset(set, 0, bytes);
  for (int i = 0; i < allowed_count; ++i) CPU_SET_S(static_cast<size_t>(atoi(allowed[i])), bytes, set);
  return 0;
}

int main(int count, char **arguments) {
  if (count < 4) return 1;
  kernel_bytes = static_cast<size_t>(atoi(arguments[2])) / 8;
  allowed_count = count - 3;
  allowed = arguments + 3;
  const std::vector<int> processors = lily::system::allowed_processors();
  printf("%zu %d\n", processors.size(), lily::system::core_count(processors, arguments[1]));
}
