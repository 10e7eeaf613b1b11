// What the operating system says about the processor and the memory.
#pragma once

#include <stdint.h>

#include <string>

namespace lily::system {

// The limits of the number of threads.
struct ThreadLimits {
  int affinity;        // processors that this process may run on
  int quota;           // CPU quota of the cgroup in whole processors; 0: no quota
  int physical_cores;  // of the processors in `affinity`; on Apple silicon only performance cores
};
ThreadLimits thread_limits();

std::string processor_name();

// 0 if unknown.
uint64_t memory_bytes();
uint64_t cache_bytes();     // of the last-level cache
uint64_t l2_cache_bytes();  // of the first core; where cores share the cache, its part of it

}  // namespace lily::system
