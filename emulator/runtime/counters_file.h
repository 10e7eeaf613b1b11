// The counters of all launches, written as JSON at exit to the file named by LILY_EMULATOR_COUNTERS.
#pragma once

#include <string>

#include "core/counters.h"

namespace lily::emulator::runtime {

void count_launch(const std::string &kernel, const KernelCounters &counters);
void write_counters_file();

}  // namespace lily::emulator::runtime
