#include "runtime/scheduler.h"

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

// As many launches as a GPU's queue takes before the host has to wait.
constexpr size_t kQueueDepth = 1024;

// After this long without a runtime call, host functions that are due are called.
constexpr auto kQuiet = std::chrono::milliseconds(2);

struct Queue {
  std::vector<OperationPtr> pending;  // in the order of submission
  std::deque<OperationPtr> host_functions;
  std::condition_variable_any changed;
  std::mt19937 random{environment().order};
  uint64_t activity = 0;
  bool has_thread = false;
  const Operation *running = nullptr;
  std::map<int, Clock> queued;  // by device: all that was queued
};

Queue &queue() {
  // Never destroyed: its thread may still wait for it when static destructors run.
  static Queue *const queue = new Queue;
  return *queue;
}

void mark_done(const OperationPtr &operation) {
  operation->state = State::kDone;
  operation->after.clear();
  operation->work = nullptr;
  std::erase(queue().pending, operation);
  queue().changed.notify_all();
}

bool is_ready(const Operation &operation) {
  if (operation.state != State::kWaiting) return false;
  for (const OperationPtr &each : operation.after) {
    if (!is_done(each)) return false;
  }
  return true;
}

void run(const OperationPtr &operation) {
  operation->state = State::kRunning;
  const bool broken = device(operation->device).broken != cudaSuccess;
  if (operation->host_function && !broken) {
    queue().host_functions.push_back(operation);
    queue().changed.notify_all();
    return;
  }
  queue().running = operation.get();
  if (operation->work && !broken) operation->work();
  queue().running = nullptr;
  mark_done(operation);
}

// Draws one of the operations that may run and runs it; false when there is none. Half of the time it is the one queued
// last: what a program forgot to order mostly goes well in the order of its calls and fails in the reverse one.
bool run_one(bool host_functions = true) {
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

// Someone must be running what is waited for: a host function, or another thread.
void run_one_or_wait() {
  if (!run_one()) queue().changed.wait(runtime_mutex());
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
      // What it tells the host's threads is not seen here, so they know what it knew.
      host_clock().join(operation->known);
      mark_done(operation);
    } else if (host_functions_pending()) {
      const uint64_t before = q.activity;
      q.changed.wait_for(runtime_mutex(), kQuiet);
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

void place(Operation &operation, Timeline &timeline) {
  operation.timeline = timeline.number();
  operation.time = timeline.next_time();
  operation.known.advance(operation.timeline, operation.time);
}

const Operation *running_operation() { return queue().running; }

void submit(const OperationPtr &operation) {
  Queue &q = queue();
  q.queued[operation->device].join(operation->known);
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
  // Most work waits, so that what must not be touched meanwhile is touched before it runs; some is early.
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

void finish_at_exit() {
  while (run_one(false)) {
  }
}

void make_progress() { run_one(); }

void note_activity() { ++queue().activity; }

}  // namespace lily::emulator::runtime
