#include "system/linux/affinity.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <thread>

namespace lily::system {

std::vector<int> allowed_processors() {
  // The kernel rejects a set that is smaller than its own. A cpu_set_t has 1024 processors, and a kernel may have more.
  constexpr size_t kMostSets = 64;
  for (size_t count = 1; count <= kMostSets; count *= 2) {
    std::vector<cpu_set_t> sets(count);
    const size_t bytes = count * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, sets.data()) != 0) continue;
    std::vector<int> processors;
    for (size_t i = 0; i < 8 * bytes; ++i) {
      if (CPU_ISSET_S(i, bytes, sets.data())) processors.push_back(static_cast<int>(i));
    }
    return processors;
  }
  std::vector<int> all(std::max(1u, std::thread::hardware_concurrency()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

int core_count(const std::vector<int> &processors, const std::string &root) {
  std::set<std::string> cores;
  for (const int processor : processors) {
    const std::string number = std::to_string(processor);
    std::ifstream file(root + "/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    std::string siblings;
    std::getline(file, siblings);
    // Some containers hide the file. The processor then counts as a core of its own.
    cores.insert(siblings.empty() ? number : siblings);
  }
  return static_cast<int>(cores.size());
}

}  // namespace lily::system
