#include "runtime/counters_file.h"

#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>

#include "runtime/environment.h"

namespace lily::emulator::runtime {
namespace {

std::map<std::string, KernelCounters> &kernels() {
  static auto *const kernels = new std::map<std::string, KernelCounters>;
  return *kernels;
}

}  // namespace

void count_launch(const std::string &kernel, const KernelCounters &counters) {
  if (!environment().counters.empty()) kernels()[kernel] += counters;
}

// %p in the name is replaced by the process id, so that several processes of a test run write separate files.
void write_counters_file() {
  std::string name = environment().counters;
  // A process without launches, such as the shell that starts the actual program, does not write the file.
  if (name.empty() || kernels().empty()) return;
  const size_t position = name.find("%p");
  if (position != std::string::npos) name.replace(position, 2, std::to_string(getpid()));
  FILE *file = fopen(name.c_str(), "w");
  if (file == nullptr) {
    perror(("emulator: " + name).c_str());
    return;
  }
  fprintf(file, "%s\n", to_json(kernels()).c_str());
  fclose(file);
}

}  // namespace lily::emulator::runtime
