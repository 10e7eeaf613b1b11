// Queued work. An operation may run once all its dependencies are done. A seeded generator chooses among the operations
// that may run, so that no order that the program has not requested holds by chance.
//
// Work runs when a call waits for it and sometimes when more is queued. While host functions are pending, a separate
// thread also runs work when the program makes no calls for a while, so that host functions run even if nothing waits
// for them. Everything except the host functions themselves runs under the runtime's lock.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/emulator.h"
#include "runtime/order.h"

namespace lily::emulator::runtime {

struct Operation {
  enum class State { kWaiting, kRunning, kDone };

  std::function<void()> work;  // empty for a marker
  std::vector<std::shared_ptr<Operation>> dependencies;
  int device = 0;
  bool host_function = false;  // runs on its own thread, without the lock; skipped after a sticky error
  State state = State::kWaiting;
  std::string name;  // for findings: "the kernel scale in stream 3"
  // Position in the order of all work: its timeline, its time, and the clock of everything that comes before it.
  uint32_t timeline = 0, time = 0;
  VectorClock clock;
  // Programmatic dependent launch: the operation that a dependent launch follows; and, after a kernel has run, the
  // launches that may still be running when one that depends on it starts.
  std::shared_ptr<Operation> follows;
  EarlierLaunches running;
};
using OperationPtr = std::shared_ptr<Operation>;

inline bool is_done(const OperationPtr &operation) {
  return operation == nullptr || operation->state == Operation::State::kDone;
}

// Assigns the operation's position in the order; `clock` must already include its dependencies.
void assign_time(Operation &operation, Timeline &timeline);

// The operation whose work is running under the runtime's lock.
Operation *running_operation();

// Queues the operation and may run some of the ready ones.
void submit(const OperationPtr &operation);

// Runs work in random order until the operation is done.
void finish(const OperationPtr &operation);

// Runs all work of a device, or of all devices if `device` is -1.
void finish_device(int device);

// Drops the work of a device that does not run yet.
void discard_device(int device);

// At exit: runs everything except host functions and their dependents, because the data they use may be gone.
void finish_at_exit();

// Runs one operation, for programs that poll.
void make_progress();

// Called by every runtime call, so that the host thread knows that the program is not idle.
void note_activity();

}  // namespace lily::emulator::runtime
