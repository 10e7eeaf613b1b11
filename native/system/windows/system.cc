#include <cpuid.h>
#include <malloc.h>
#include <string.h>
#include <windows.h>

#include <algorithm>
#include <bitset>
#include <memory>

#include "system/environment.h"
#include "system/file_lock.h"
#include "system/image.h"
#include "system/memory.h"
#include "system/processor.h"
#include "system/threads.h"
#include "system/tile_registers.h"

namespace lily::system {
namespace {

// A function of the program or of a library that is loaded; null if it has none of this name.
template <typename Function>
Function *find(const char *library, const char *name) {
  return reinterpret_cast<Function *>(reinterpret_cast<void *>(GetProcAddress(GetModuleHandleA(library), name)));
}

// Calls visit(entry) for each core or each cache of the machine.
template <typename Visit>
void for_each(LOGICAL_PROCESSOR_RELATIONSHIP kind, const Visit &visit) {
  DWORD bytes = 0;
  GetLogicalProcessorInformationEx(kind, nullptr, &bytes);
  const std::unique_ptr<char[]> entries(new char[bytes]);
  using Entry = SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX;
  if (!GetLogicalProcessorInformationEx(kind, reinterpret_cast<Entry *>(entries.get()), &bytes)) return;
  for (DWORD at = 0; at < bytes;) {
    const auto *const entry = reinterpret_cast<const Entry *>(entries.get() + at);
    visit(*entry);
    at += entry->Size;
  }
}

}  // namespace

std::string environment_variable(const char *name) {
  const DWORD bytes = GetEnvironmentVariableA(name, nullptr, 0);  // with the terminating zero; 0 if it is not set
  std::string value(bytes, '\0');
  value.resize(GetEnvironmentVariableA(name, value.data(), bytes));
  return value;
}

// The number that Node's fs gives for a file is an index into a table of Node's C library, not of the addon's.
FileLock try_lock(int file, bool exclusive) {
  static auto *const handle_of = find<HANDLE(int)>(nullptr, "uv_get_osfhandle");
  if (handle_of == nullptr) return FileLock::kUnsupported;
  const HANDLE handle = handle_of(file);
  if (handle == INVALID_HANDLE_VALUE) return FileLock::kNotOpen;
  // No other handle can read or write locked bytes: this byte is beyond the end of every file.
  OVERLAPPED place = {};
  place.OffsetHigh = 0x7fffffff;
  const DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (exclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0);
  if (LockFileEx(handle, flags, 0, 1, 0, &place)) return FileLock::kTaken;
  return GetLastError() == ERROR_LOCK_VIOLATION ? FileLock::kHeldElsewhere : FileLock::kUnsupported;
}

void keep_image() {
  HMODULE image;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                     reinterpret_cast<const wchar_t *>(&keep_image), &image);
}

void *allocate_aligned(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }
void free_aligned(void *memory) { _aligned_free(memory); }
void advise_huge_pages(void *, size_t) {}
void keep_freed_memory() {}
void return_freed_memory() {}

void after_fork(void (*)()) {}

// Cores of every efficiency class count, as on Linux: a thread claims one task after the other, so that a slower core
// runs fewer of them. Processors come in groups of up to 64. A process that has several groups has each of them whole;
// one that has one group has a mask in it.
ThreadLimits thread_limits() {
  USHORT groups[64], count = 64;
  // It fails on Wine, which has one group.
  if (!GetProcessGroupAffinity(GetCurrentProcess(), &count, groups)) groups[0] = 0, count = 1;
  DWORD_PTR mask = 0, of_system = 0;
  if (count > 1 || !GetProcessAffinityMask(GetCurrentProcess(), &mask, &of_system)) mask = ~DWORD_PTR{0};
  ThreadLimits limits = {};
  for_each(RelationProcessorCore, [&](const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX &core) {
    int allowed = 0;
    for (WORD i = 0; i < core.Processor.GroupCount; ++i) {
      const GROUP_AFFINITY &part = core.Processor.GroupMask[i];
      if (std::find(groups, groups + count, part.Group) == groups + count) continue;
      allowed += static_cast<int>(std::bitset<64>(part.Mask & mask).count());
    }
    limits.affinity += allowed;
    limits.physical_cores += allowed > 0;
  });
  return {std::max(1, limits.affinity), 0, std::max(1, limits.physical_cores)};
}

std::string processor_name() {
  // Three leaves of 16 characters.
  unsigned text[13] = {};
  for (unsigned i = 0; i < 3; ++i) {
    unsigned *const part = text + 4 * i;
    if (!__get_cpuid(0x80000002 + i, &part[0], &part[1], &part[2], &part[3])) return "CPU";
  }
  std::string name = reinterpret_cast<const char *>(text);
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
  return name;
}

uint64_t memory_bytes() {
  MEMORYSTATUSEX status = {};
  status.dwLength = sizeof status;
  return GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : 0;
}

uint64_t cache_bytes() {
  uint64_t largest = 0;
  for_each(RelationCache, [&](const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX &entry) {
    largest = std::max<uint64_t>(largest, entry.Cache.CacheSize);
  });
  return largest;
}

uint64_t l2_cache_bytes() {
  uint64_t bytes = 0;
  uint64_t sharing = 0;
  for_each(RelationCache, [&](const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX &entry) {
    const CACHE_RELATIONSHIP &cache = entry.Cache;
    if (cache.Level != 2 || cache.GroupMask.Group != 0 || (cache.GroupMask.Mask & 1) == 0) return;
    bytes = cache.CacheSize;
    sharing = cache.GroupMask.Mask;
  });
  uint64_t cores = 0;
  for_each(RelationProcessorCore, [&](const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX &core) {
    const GROUP_AFFINITY &part = core.Processor.GroupMask[0];
    cores += part.Group == 0 && (part.Mask & sharing) != 0;
  });
  return bytes / std::max<uint64_t>(1, cores);
}

const char *request_tile_registers() {
  // Windows 11 and Windows Server 2022 have it.
  static auto *const enable = find<BOOL WINAPI(DWORD64)>("kernel32.dll", "EnableProcessOptionalXStateFeatures");
  constexpr DWORD64 kTileData = 1 << 18;
  if (enable == nullptr) return "this version of Windows does not give them to a process";
  return enable(kTileData) ? nullptr : "EnableProcessOptionalXStateFeatures failed";
}

}  // namespace lily::system
