#include "runtime/unordered.h"

#include <algorithm>
#include <map>
#include <string>

#include "core/device_memory.h"
#include "runtime/environment.h"
#include "runtime/findings.h"
#include "runtime/scheduler.h"

namespace lily::emulator::runtime {
namespace {

using Units = std::bitset<TouchedPage::kUnits>;

// The accesses of one operation to a page, minus those to units that later, ordered work also accessed: work that
// conflicts with the operation in such a unit also conflicts with that later work.
struct Record {
  uint32_t timeline = 0, time = 0;
  std::string name;
  Units read, written;
};

using Page = std::vector<Record>;

// By allocation id and page number.
std::map<uint64_t, std::map<uint64_t, Page>> &pages() {
  static auto *const pages = new std::map<uint64_t, std::map<uint64_t, Page>>;
  return *pages;
}

void report_conflict(const Operation &operation, const Record &record, const TouchedPage &touched,
                     const Units &conflicts) {
  size_t unit = 0;
  while (!conflicts.test(unit)) ++unit;
  std::string where = "an allocation";
  for (const auto &each : device_memory().live()) {
    if (each->id == touched.allocation) where = std::to_string(each->size) + " bytes of " + each->label;
  }
  const char *mine = touched.read.test(unit) ? " reads" : " writes";
  const char *other = record.read.test(unit) ? " reads" : " writes";
  report_and_fail(operation.device, cudaErrorLaunchFailure,
                  {.kind = "unordered work",
                   .text = operation.name + mine + " byte " +
                           std::to_string(touched.page * TouchedPage::kBytes + 2 * unit) + " of " + where + ", which " +
                           record.name + other + ", and no stream, event or host synchronisation orders the two"});
}

// Returns false after a finding.
bool note(const Operation &operation, const TouchedPage &touched) {
  Page &page = pages()[touched.allocation][touched.page];
  for (Record &each : page) {
    if (!operation.clock.covers(each.timeline, each.time)) {
      const Units conflicts = (touched.written & (each.read | each.written)) | (touched.read & each.written);
      if (conflicts.none()) continue;
      report_conflict(operation, each, touched, conflicts);
      return false;
    }
    each.read &= ~(touched.read | touched.written);
    each.written &= ~touched.written;
  }
  std::erase_if(page, [](const Record &each) { return (each.read | each.written).none(); });
  page.push_back({operation.timeline, operation.time, operation.name, touched.read, touched.written});
  return true;
}

void note_range(const void *pointer, size_t bytes, bool write) {
  if (!checks_order()) return;
  const auto found = device_memory().find(pointer);
  if (found == nullptr) return;
  // Units that are only partly covered are ignored.
  const size_t start = static_cast<const char *>(pointer) - found->base;
  const size_t first = (start + 1) / 2, last = std::min(start + bytes, found->size) / 2;
  for (size_t unit = first; unit < last;) {
    TouchedPage touched;
    touched.allocation = found->id;
    touched.page = unit / TouchedPage::kUnits;
    const size_t end = std::min(last, (touched.page + 1) * TouchedPage::kUnits);
    Units &units = write ? touched.written : touched.read;
    for (; unit < end; ++unit) units.set(unit % TouchedPage::kUnits);
    if (!note(*running_operation(), touched)) return;
  }
}

}  // namespace

bool checks_order() { return environment().global_races && !environment().fast; }

void note_touched(const std::vector<TouchedPage> &touched) {
  for (const TouchedPage &each : touched) {
    if (!note(*running_operation(), each)) return;
  }
}

void note_read(const void *pointer, size_t bytes) { note_range(pointer, bytes, false); }
void note_written(const void *pointer, size_t bytes) { note_range(pointer, bytes, true); }

void forget_accesses(uint64_t allocation) { pages().erase(allocation); }

}  // namespace lily::emulator::runtime
