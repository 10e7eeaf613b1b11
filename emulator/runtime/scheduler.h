// Queued work. An operation may run once all that it comes after is done; which of those that may run is the next is
// drawn from a seeded generator, so that order which the program does not ask for is not there by luck.
//
// Work runs when a call waits for it, sometimes when more is queued, and, so that host functions are called although
// nobody waits, on a thread of their own once the program has been quiet for a moment. All under the runtime's lock
// but for the host functions themselves.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/order.h"

namespace lily::emulator::runtime {

struct Operation {
  enum class State { kWaiting, kRunning, kDone };

  std::function<void()> work;  // empty: a marker, such as an event
  std::vector<std::shared_ptr<Operation>> after;
  int device = 0;
  bool host_function = false;  // runs on its own thread, without the lock, and not on a broken context
  State state = State::kWaiting;
  std::string name;  // for findings: "the kernel scale in stream 3"
  // Where it stands in the order of all work: itself and what comes before it.
  uint32_t timeline = 0, time = 0;
  Clock known;
};
using OperationPtr = std::shared_ptr<Operation>;

inline bool is_done(const OperationPtr &operation) {
  return operation == nullptr || operation->state == Operation::State::kDone;
}

// Sets an operation's place in the order; `known` already has what it comes after.
void place(Operation &operation, Timeline &timeline);

// The one whose work is being done, under the runtime's lock.
const Operation *running_operation();

// Queues it; may run some of what is ready.
void submit(const OperationPtr &operation);

// Runs work in random order until this is done.
void finish(const OperationPtr &operation);

// Runs all work of a device; of all of them with -1.
void finish_device(int device);

// At the end of the process: all but host functions and what comes after them, for what they use may be gone.
void finish_at_exit();

// One step forward, for a program that polls.
void make_progress();

// A runtime call was made: the program is not quiet.
void note_activity();

}  // namespace lily::emulator::runtime
