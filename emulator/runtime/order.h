// The order of work that streams, events and host synchronisation guarantee, regardless of the order in which it ran.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace lily::emulator::runtime {

// A sequence of work in which each piece runs after the one before: a stream, or a branch of a graph. Its number is
// reused after it is destroyed.
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

// A vector clock: per timeline, the time up to which its work is ordered before.
class VectorClock {
 public:
  void join(const VectorClock &other);
  void advance(uint32_t timeline, uint32_t time);
  bool covers(uint32_t timeline, uint32_t time) const { return timeline < times_.size() && times_[timeline] >= time; }

 private:
  std::vector<uint32_t> times_;
};

// The work that the host has waited for. All host threads share it, so order between them may be assumed where there is
// none, but never the other way round.
VectorClock &host_clock();

}  // namespace lily::emulator::runtime
