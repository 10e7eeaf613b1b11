// The thread that calls MPI: one of the process, from init to finalize.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "mpi/world.h"

namespace lily::mpi {

class Thread;

// What the thread is asked to do.
class Task {
 public:
  virtual ~Task() = default;
  virtual void run(Thread &thread) = 0;
  // After run; takes the task over.
  virtual void finished(std::unique_ptr<Task> self) = 0;
};

class Thread {
 public:
  // `timeout` in seconds. Throws std::system_error if there is no thread.
  Thread(Library &library, double timeout);

  void add(std::unique_ptr<Task> task);
  // Whether MPI is not in use any more, or could not be initialised. The thread has no more tasks then.
  bool has_ended() const { return ends_; }
  void join() { thread_.join(); }

  bool is_aborting() const { return abort_code_ != 0; }
  // Writes the text and ends the job and this process, from another thread, whatever this one is doing.
  [[noreturn]] void abort(const std::string &text, int code);

  // On the thread. Empty, or why MPI cannot be used; the thread then ends.
  std::string initialise();
  Outcome finalize(const Call &call);
  World &world() { return *world_; }

 private:
  void run();

  Library &library_;
  const double timeout_;
  AbortCode abort_code_{0};
  std::unique_ptr<World> world_;  // null: MPI is not in use
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Task>> tasks_;
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

}  // namespace lily::mpi
