#include "core/loads_in_flight.h"

#include <algorithm>

#include "core/counters.h"
#include "core/thread.h"
#include "core/traffic.h"

namespace lily::emulator {
void LoadsInFlight::execute(const Thread &at, const Instruction &in) {
  OfThread &thread = threads_[at.index];
  if (thread.waits && (uses_.begins_basic_block(in.pc) || in.flow == Flow::kBarrier)) end_wait(thread);
  if (thread.in_flight.empty()) return;
  const std::span<const int32_t> read = uses_.read(in.pc);
  const bool depends =
      std::any_of(read.begin(), read.end(), [&](int32_t reg) { return thread.wait_of[reg] == thread.next_wait; });
  if (depends && uses_.is_load(in.pc)) return end_wait(thread);
  if (depends && !uses_.is_move(in.pc)) thread.waits = true;
  for (const int32_t reg : uses_.written(in.pc)) thread.wait_of[reg] = depends ? thread.next_wait : 0;
}

void LoadsInFlight::load(const Thread &at, const Instruction &in, uint64_t address, uint32_t bytes) {
  OfThread &thread = threads_[at.index];
  // A load is aligned to its size, so it lies in one sector.
  const uint32_t new_bytes = sectors_.insert(address / kSectorBytes).second ? kSectorBytes : 0;
  if (thread.wait_of.empty()) thread.wait_of.assign(uses_.register_count(), 0);
  thread.in_flight.push_back({in.pc, bytes, new_bytes});
  for (const int32_t reg : uses_.written(in.pc)) thread.wait_of[reg] = thread.next_wait;
}

void LoadsInFlight::store(const Thread &at) {
  OfThread &thread = threads_[at.index];
  if (thread.waits) end_wait(thread);
}

void LoadsInFlight::end_wait(OfThread &thread) {
  size_t bytes = 0;
  for (const Load &load : thread.in_flight) bytes += load.bytes;
  const bool is_short = thread.in_flight.size() < kLoads && bytes < kLoadBytes;
  for (const Load &load : thread.in_flight) {
    Place &place = thread.places[uses_.place(load.pc)];
    place.pc = load.pc;
    ++place.loads;
    place.bytes += load.new_bytes;
    if (is_short) place.short_bytes += load.new_bytes;
    if (place.last_wait != thread.next_wait) ++place.waits;
    place.last_wait = thread.next_wait;
  }
  thread.in_flight.clear();
  thread.waits = false;
  ++thread.next_wait;
}

void LoadsInFlight::add_to(std::vector<Counters> &instructions) {
  for (OfThread &thread : threads_) {
    end_wait(thread);
    for (const auto &[number, place] : thread.places) {
      if (place.loads < kLoads) continue;
      instructions[place.pc].repeated_load_bytes += place.bytes;
      if (place.waits > (place.loads + kLoads - 1) / kLoads)
        instructions[place.pc].short_wait_bytes += place.short_bytes;
    }
  }
}

}  // namespace lily::emulator
