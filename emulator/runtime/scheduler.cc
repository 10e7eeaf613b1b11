#include "runtime/scheduler.h"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <random>
#include <thread>

#include "runtime/call.h"
#include "runtime/device.h"
#include "runtime/environment.h"

namespace lily::emulator::runtime {
namespace {

using State = Operation::State;

// Number of launches that a GPU's queue holds before the host has to wait.
constexpr size_t kQueueDepth = 1024;

// After this time without a runtime call, host functions that are ready are called.
constexpr auto kIdleTime = std::chrono::milliseconds(2);

struct Queue {
  std::vector<OperationPtr> pending;  // in the order of submission
  std::deque<OperationPtr> host_functions;
  std::condition_variable_any changed;
  std::mt19937 random{environment().order};
  uint64_t activity = 0;
  bool has_thread = false;
  Operation *running = nullptr;
  std::map<int, VectorClock> queued;  // per device: everything queued so far
};

Queue &queue() {
  // Never destroyed: its thread may still use it while static destructors run.
  static Queue *const queue = new Queue;
  return *queue;
}

void mark_done(const OperationPtr &operation) {
  operation->state = State::kDone;
  operation->dependencies.clear();
  operation->follows = nullptr;
  operation->work = nullptr;
  std::erase(queue().pending, operation);
  queue().changed.notify_all();
}

bool is_ready(const Operation &operation) {
  if (operation.state != State::kWaiting) return false;
  for (const OperationPtr &each : operation.dependencies) {
    if (!is_done(each)) return false;
  }
  return true;
}

void run(const OperationPtr &operation) {
  operation->state = State::kRunning;
  const bool failed = device(operation->device).sticky_error != cudaSuccess;
  if (operation->host_function && !failed) {
    queue().host_functions.push_back(operation);
    queue().changed.notify_all();
    return;
  }
  queue().running = operation.get();
  if (operation->work && !failed) operation->work();
  queue().running = nullptr;
  mark_done(operation);
}

// Whether the program holds all work: while LILY_EMULATOR_CONTROL has the file `hold`.
bool is_held() {
  const std::string &folder = environment().control;
  return !folder.empty() && access((folder + "/hold").c_str(), F_OK) == 0;
}

// Runs a randomly chosen ready operation; returns false if there is none. In half of the cases it chooses the one
// queued last: missing order usually has no effect in the order of the calls and shows in the reverse order.
bool run_one(bool host_functions = true) {
  if (is_held()) return false;
  Queue &q = queue();
  std::vector<OperationPtr> ready;
  for (const OperationPtr &each : q.pending) {
    if (is_ready(*each) && (host_functions || !each->host_function)) ready.push_back(each);
  }
  if (ready.empty()) return false;
  size_t choice = 0;
  if (environment().order != 0) choice = q.random() % 2 == 0 ? ready.size() - 1 : q.random() % ready.size();
  run(ready[choice]);
  return true;
}

// If nothing is ready, a host function or another thread must be running the awaited work, or it is held, and nobody
// announces when that ends.
void run_one_or_wait() {
  if (run_one()) return;
  if (environment().control.empty())
    queue().changed.wait(runtime_mutex());
  else
    queue().changed.wait_for(runtime_mutex(), kIdleTime);
}

bool host_functions_pending() {
  for (const OperationPtr &each : queue().pending) {
    if (each->host_function) return true;
  }
  return false;
}

void call_host_functions() {
  inside_host_function() = true;
  std::unique_lock<std::mutex> lock(runtime_mutex());
  Queue &q = queue();
  while (true) {
    if (!q.host_functions.empty()) {
      const OperationPtr operation = q.host_functions.front();
      q.host_functions.pop_front();
      const std::function<void()> work = operation->work;
      lock.unlock();
      work();
      lock.lock();
      // The emulator does not see what a host function signals to other host threads, so they inherit its clock.
      host_clock().join(operation->clock);
      mark_done(operation);
    } else if (host_functions_pending()) {
      const uint64_t before = q.activity;
      q.changed.wait_for(runtime_mutex(), kIdleTime);
      if (q.activity == before) run_one();
    } else {
      q.changed.wait(runtime_mutex());
    }
  }
}

void start_host_thread() {
  if (queue().has_thread) return;
  queue().has_thread = true;
  std::thread(call_host_functions).detach();
}

}  // namespace

void assign_time(Operation &operation, Timeline &timeline) {
  operation.timeline = timeline.number();
  operation.time = timeline.next_time();
  operation.clock.advance(operation.timeline, operation.time);
}

Operation *running_operation() { return queue().running; }

void submit(const OperationPtr &operation) {
  Queue &q = queue();
  q.queued[operation->device].join(operation->clock);
  q.pending.push_back(operation);
  if (operation->host_function) {
    start_host_thread();
    q.changed.notify_all();
  }
  if (environment().order == 0) {
    while (run_one()) {
    }
    return;
  }
  // Most work is delayed, so that early accesses to its memory occur before it runs; some runs early.
  if (q.random() % 16 == 0) run_one();
  while (q.pending.size() > kQueueDepth) run_one_or_wait();
}

void finish(const OperationPtr &operation) {
  while (!is_done(operation)) run_one_or_wait();
}

void finish_device(int index) {
  const std::vector<OperationPtr> operations = queue().pending;
  for (const OperationPtr &each : operations) {
    if (index < 0 || each->device == index) finish(each);
  }
  for (const auto &[device, known] : queue().queued) {
    if (index < 0 || device == index) host_clock().join(known);
  }
}

void discard_device(int index) {
  const std::vector<OperationPtr> operations = queue().pending;
  for (const OperationPtr &each : operations) {
    if (each->device == index && each->state == State::kWaiting) mark_done(each);
  }
}

void finish_at_exit() {
  while (run_one(false)) {
  }
}

void make_progress() { run_one(); }

void note_activity() { ++queue().activity; }

}  // namespace lily::emulator::runtime
