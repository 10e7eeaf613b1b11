#include "runtime/order.h"

#include <algorithm>

namespace lily::emulator::runtime {
namespace {

struct TimelineNumbers {
  std::vector<uint32_t> free;
  // The last time of each timeline. It continues when a number is reused, so that the two owners are not confused.
  std::vector<uint32_t> times;
};

TimelineNumbers &numbers() {
  static TimelineNumbers *const numbers = new TimelineNumbers;
  return *numbers;
}

}  // namespace

Timeline::Timeline() {
  TimelineNumbers &all = numbers();
  if (all.free.empty()) {
    all.free.push_back(static_cast<uint32_t>(all.times.size()));
    all.times.push_back(0);
  }
  number_ = all.free.back();
  all.free.pop_back();
}

Timeline::~Timeline() { numbers().free.push_back(number_); }

uint32_t Timeline::next_time() { return ++numbers().times[number_]; }

void VectorClock::join(const VectorClock &other) {
  if (times_.size() < other.times_.size()) times_.resize(other.times_.size(), 0);
  for (size_t i = 0; i < other.times_.size(); ++i) times_[i] = std::max(times_[i], other.times_[i]);
}

void VectorClock::advance(uint32_t timeline, uint32_t time) {
  if (times_.size() <= timeline) times_.resize(timeline + 1, 0);
  times_[timeline] = time;
}

VectorClock &host_clock() {
  static VectorClock *const clock = new VectorClock;
  return *clock;
}

}  // namespace lily::emulator::runtime
