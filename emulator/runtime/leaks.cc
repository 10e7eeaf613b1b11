#include "runtime/leaks.h"

#include <vector>

#include "runtime/device.h"
#include "runtime/findings.h"
#include "runtime/graph.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace lily::emulator::runtime {

void report_leaks() {
  for (int index = 0; index < device_count(); ++index) {
    // After a sticky error the program may be unable to release resources.
    if (device(index).sticky_error != cudaSuccess) continue;
    for (const auto &list : {live_memory(index), live_streams(index), live_events(index), live_graphs(index)}) {
      for (const std::string &each : list) {
        report({.kind = "leak", .text = "device " + std::to_string(index) + ": " + each + " not released before exit"});
      }
    }
  }
}

void release_all(int index) {
  destroy_graphs(index);
  destroy_streams(index);
  destroy_events(index);
  release_memory(index);
}

}  // namespace lily::emulator::runtime
