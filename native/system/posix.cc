// What Linux and macOS have in common.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "system/environment.h"
#include "system/file_lock.h"
#include "system/memory.h"
#include "system/processor.h"
#include "system/threads.h"

namespace lily::system {

std::string environment_variable(const char *name) {
  const char *const text = getenv(name);
  return text == nullptr ? "" : text;
}

// flock's locks belong to the open file; fcntl's belong to the process.
FileLock try_lock(int file, bool exclusive) {
  int result = 0;
  do {
    result = flock(file, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return FileLock::kTaken;
  if (errno == EWOULDBLOCK) return FileLock::kHeldElsewhere;
  return errno == EBADF ? FileLock::kNotOpen : FileLock::kUnsupported;
}

void *allocate_aligned(size_t alignment, size_t bytes) { return aligned_alloc(alignment, bytes); }
void free_aligned(void *memory) { free(memory); }

uint64_t memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_bytes > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes) : 0;
}

void after_fork(void (*forget)()) { pthread_atfork(nullptr, nullptr, forget); }

}  // namespace lily::system
