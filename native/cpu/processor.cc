#include "cpu/processor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "cpu/cgroup.h"

namespace lily::cpu {
namespace {

struct Candidate {
  const char *name;
  const Kernels *kernels;
  const Kernels *pairs;
  bool supported;
};

// Narrowest first.
std::vector<Candidate> candidates() {
#if defined(__x86_64__)
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return {
      {"portable", &kKernelsPortable, nullptr, true},
#if defined(__x86_64__)
      {"avx2", &kKernelsAvx2, nullptr, has_avx2},
      {"avx512", &kKernelsAvx512, nullptr, has_avx512},
      {"avx512bf16", &kKernelsAvx512, &kKernelsAvx512Bf16, has_avx512 && __builtin_cpu_supports("avx512bf16")},
#elif defined(__aarch64__)
      {"neon", &kKernelsNeon, nullptr, true},
#endif
  };
}

InstructionSet choose_instruction_set() {
  const char *requested = getenv("LILY_CPU_ISA");
  InstructionSet chosen = {"none", nullptr, nullptr, ""};
  std::string names;
  for (const Candidate &candidate : candidates()) {
    names += std::string(names.empty() ? "" : ", ") + candidate.name;
    const InstructionSet set = {candidate.name, candidate.kernels, candidate.pairs, ""};
    if (requested == nullptr || *requested == '\0') {
      if (candidate.supported) chosen = set;
    } else if (strcmp(requested, candidate.name) == 0) {
      if (candidate.supported) return set;
      return {
          candidate.name, nullptr, nullptr,
          "LILY_CPU_ISA=" + std::string(requested) + ", but this processor does not support it; unset LILY_CPU_ISA"};
    }
  }
  if (chosen.kernels == nullptr) {
    chosen.error = "LILY_CPU_ISA=" + std::string(requested) + " is not one of " + names +
                   "; unset LILY_CPU_ISA or set it to one of them";
  }
  return chosen;
}

int affinity_count() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::string first_line(const std::string &path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The hardware threads of a core share its multipliers, so a second thread on a core only adds overhead.
int physical_core_count() {
  std::set<std::string> cores;
  for (int cpu = 0; cpu < 4096; ++cpu) {
    const std::string siblings =
        first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    if (siblings.empty()) break;
    cores.insert(siblings);
  }
  return cores.empty() ? static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))
                       : static_cast<int>(cores.size());
}

}  // namespace

const InstructionSet &instruction_set() {
  static const InstructionSet *const chosen = new InstructionSet(choose_instruction_set());
  return *chosen;
}

std::vector<const char *> supported_instruction_sets() {
  std::vector<const char *> names;
  for (const Candidate &candidate : candidates()) {
    if (candidate.supported) names.push_back(candidate.name);
  }
  return names;
}

ThreadLimits thread_limits() { return {affinity_count(), cgroup_quota(), physical_core_count()}; }

int default_thread_count() {
  const ThreadLimits limits = thread_limits();
  const int allowed = limits.quota > 0 ? std::min(limits.affinity, limits.quota) : limits.affinity;
  return std::max(1, std::min({allowed, limits.physical_cores, 256}));
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

uint64_t memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_bytes > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes) : 0;
}

uint64_t cache_bytes() {
  uint64_t largest = 0;
  for (int index = 0; index < 16; ++index) {
    const std::string size = first_line("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    if (size.empty()) break;
    uint64_t count = 0;
    std::istringstream(size) >> count;
    largest = std::max(largest, count * (size.back() == 'M' ? 1 << 20 : 1 << 10));
  }
  return largest;
}

}  // namespace lily::cpu
