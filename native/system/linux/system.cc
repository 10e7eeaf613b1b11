#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <fstream>
#include <sstream>

#include "system/image.h"
#include "system/linux/affinity.h"
#include "system/linux/cgroup.h"
#include "system/memory.h"
#include "system/processor.h"
#include "system/tile_registers.h"

namespace lily::system {

// The linker option -z nodelete does it.
void keep_image() {}

void advise_huge_pages(void *memory, size_t bytes) { madvise(memory, bytes, MADV_HUGEPAGE); }

void keep_freed_memory() {
#if defined(__GLIBC__)
  // Until a block of a size was freed, malloc returns blocks of that size; then it keeps up to twice as much. The size
  // is somewhat below the largest to which malloc adapts (mallopt(3), M_MMAP_THRESHOLD). Thresholds that the user has
  // set stay.
  constexpr size_t kLargestOfHeap = 4 * 1024 * 1024 * sizeof(long) - 16 * 4096;
  void *volatile block = malloc(kLargestOfHeap);
  free(block);
#endif
}

void return_freed_memory() {
#if defined(__GLIBC__)
  // malloc itself returns only what lies at the end of its heap, and keep_freed_memory makes it take large blocks from
  // there.
  malloc_trim(0);
#endif
}

ThreadLimits thread_limits() {
  const std::vector<int> processors = allowed_processors();
  return {static_cast<int>(processors.size()), cgroup_quota(), core_count(processors)};
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

// Size of a cache of the first processor; 0 if there is no cache of this index.
static uint64_t cache_bytes(int index) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
  std::string size;
  std::getline(file, size);
  if (size.empty()) return 0;
  uint64_t count = 0;
  std::istringstream(size) >> count;
  return count * (size.back() == 'M' ? 1 << 20 : 1 << 10);
}

uint64_t cache_bytes() {
  uint64_t largest = 0;
  for (int index = 0; cache_bytes(index) > 0; ++index) largest = std::max(largest, cache_bytes(index));
  return largest;
}

// Indices 0 and 1 are the L1 caches of data and of instructions.
uint64_t l2_cache_bytes() { return cache_bytes(2); }

const char *request_tile_registers() {
#if defined(__x86_64__)
  // Linux, arch/x86/include/uapi/asm/prctl.h: ARCH_REQ_XCOMP_PERM, for the state component of the tile data.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return nullptr;
  switch (errno) {
    case ENOSPC: return "a thread has a signal stack that is too small for the tile registers";
    case EINVAL:
    case ENOSYS: return "the kernel is older than Linux 5.16";
    case EPERM: return "a seccomp filter forbids arch_prctl";
    default: return "arch_prctl failed";
  }
#else
  return "this processor has no AMX";
#endif
}

}  // namespace lily::system
