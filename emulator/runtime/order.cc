#include "runtime/order.h"

#include <algorithm>

namespace lily::emulator::runtime {
namespace {

struct Numbers {
  std::vector<uint32_t> free;
  std::vector<uint32_t>
      times;  // of each timeline; never back to 0, so that a number's next owner is not confused with it
};

Numbers &numbers() {
  static Numbers *const numbers = new Numbers;
  return *numbers;
}

}  // namespace

Timeline::Timeline() {
  Numbers &all = numbers();
  if (all.free.empty()) {
    all.free.push_back(static_cast<uint32_t>(all.times.size()));
    all.times.push_back(0);
  }
  number_ = all.free.back();
  all.free.pop_back();
}

Timeline::~Timeline() { numbers().free.push_back(number_); }

uint32_t Timeline::next_time() { return ++numbers().times[number_]; }

void Clock::join(const Clock &other) {
  if (times_.size() < other.times_.size()) times_.resize(other.times_.size(), 0);
  for (size_t i = 0; i < other.times_.size(); ++i) times_[i] = std::max(times_[i], other.times_[i]);
}

void Clock::advance(uint32_t timeline, uint32_t time) {
  if (times_.size() <= timeline) times_.resize(timeline + 1, 0);
  times_[timeline] = time;
}

Clock &host_clock() {
  static Clock *const clock = new Clock;
  return *clock;
}

}  // namespace lily::emulator::runtime
