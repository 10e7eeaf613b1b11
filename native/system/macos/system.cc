#include <dlfcn.h>
#include <malloc/malloc.h>
#include <sys/sysctl.h>

#include <algorithm>

#include "system/image.h"
#include "system/memory.h"
#include "system/processor.h"
#include "system/tile_registers.h"

namespace lily::system {
namespace {

// The first of two names that this Mac has; 0 if it has neither.
uint64_t number(const char *name, const char *otherwise) {
  for (const char *each : {name, otherwise}) {
    uint64_t value = 0;  // little-endian: the upper half stays 0 where the value has 32 bits
    size_t bytes = sizeof value;
    if (sysctlbyname(each, &value, &bytes, nullptr, 0) == 0 && value > 0) return value;
  }
  return 0;
}

}  // namespace

void keep_image() {
  Dl_info image;
  if (dladdr(reinterpret_cast<const void *>(&keep_image), &image) != 0)
    dlopen(image.dli_fname, RTLD_LAZY | RTLD_NODELETE);
}

void advise_huge_pages(void *, size_t) {}
void keep_freed_memory() {}
void return_freed_memory() { malloc_zone_pressure_relief(nullptr, 0); }

// There is no affinity and no quota. On Apple silicon level 0 has the performance cores; the other cores are several
// times slower, and a call would wait for the last task of such a core.
ThreadLimits thread_limits() {
  const int cores = static_cast<int>(number("hw.perflevel0.physicalcpu", "hw.physicalcpu"));
  return {std::max(1, static_cast<int>(number("hw.logicalcpu", "hw.ncpu"))), 0, std::max(1, cores)};
}

std::string processor_name() {
  char name[256] = "";
  size_t bytes = sizeof name;
  return sysctlbyname("machdep.cpu.brand_string", name, &bytes, nullptr, 0) == 0 ? name : "CPU";
}

uint64_t cache_bytes() { return number("hw.l3cachesize", "hw.perflevel0.l2cachesize"); }

uint64_t l2_cache_bytes() {
  // On Apple silicon a cluster of cores shares the cache.
  return number("hw.perflevel0.l2cachesize", "hw.l2cachesize") /
         std::max<uint64_t>(1, number("hw.perflevel0.cpusperl2", ""));
}

const char *request_tile_registers() { return "macOS does not give them to a process"; }

}  // namespace lily::system
