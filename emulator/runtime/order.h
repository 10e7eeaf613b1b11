// What comes before what, by the rules of streams, events and waits of the host: not by the order in which work ran.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace lily::emulator::runtime {

// A sequence of work, each piece after the one before: a stream, or a branch of a graph. Its number goes to another one
// when it ends.
class Timeline {
 public:
  Timeline();
  ~Timeline();
  Timeline(const Timeline &) = delete;
  Timeline &operator=(const Timeline &) = delete;
  uint32_t number() const { return number_; }
  uint32_t next_time();

 private:
  uint32_t number_;
};

// For each timeline, up to what time its work is known to come before.
class Clock {
 public:
  void join(const Clock &other);
  void advance(uint32_t timeline, uint32_t time);
  bool knows(uint32_t timeline, uint32_t time) const { return timeline < times_.size() && times_[timeline] >= time; }

 private:
  std::vector<uint32_t> times_;
};

// What the host has waited for, of all its threads together: some order too much, none too little.
Clock &host_clock();

}  // namespace lily::emulator::runtime
