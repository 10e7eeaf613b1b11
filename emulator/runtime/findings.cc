#include "runtime/findings.h"

#include <unistd.h>

#include <cstdio>

#include "runtime/call.h"
#include "runtime/counters_file.h"
#include "runtime/device.h"
#include "runtime/environment.h"
#include "runtime/leaks.h"
#include "runtime/scheduler.h"

namespace lily::emulator::runtime {
namespace {

uint64_t findings = 0;

// Runs when the library is unloaded, after the program's static destructors, which may still free resources.
[[gnu::destructor]] void at_exit() {
  std::lock_guard<std::mutex> lock(runtime_mutex());
  finish_at_exit();
  if (environment().driver == Driver::kPresent && environment().leaks) report_leaks();
  write_counters_file();
  if (environment().verbose >= 1) fprintf(stderr, "emulator: %llu findings\n", (unsigned long long)findings);
  if (findings == 0) return;
  fflush(nullptr);
  _exit(kFindingExitCode);
}

}  // namespace

void report(const RuntimeFinding &finding) {
  ++findings;
  const std::string kind = finding.kind.empty() ? "" : "[" + finding.kind + "] ";
  fprintf(stderr, "emulator: FINDING %s%s\n", kind.c_str(), finding.text.c_str());
}

void report_and_fail(int index, cudaError_t error, const RuntimeFinding &finding) {
  report(finding);
  if (device(index).sticky_error == cudaSuccess) device(index).sticky_error = error;
}

void unsupported(const std::string &what) {
  fprintf(stderr, "emulator: %s\n", what.c_str());
  fflush(nullptr);
  _exit(kUnsupportedExitCode);
}

}  // namespace lily::emulator::runtime
