#include "mpi/thread.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace lily::mpi {
namespace {

// Ends the process if a function of MPI that waits for other ranks does not return in time.
class Watchdog {
 public:
  Watchdog(double timeout, std::string text)
      : text_(std::move(text)),
        end_(Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout))) {
    thread_ = std::thread([this] { run(); });
  }
  ~Watchdog() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!is_over_) {
      if (Clock::now() >= end_) {
        write_last_line(text_);
        _exit(1);
      }
      // By the clock of the system: waits by a steady one require glibc 2.30. If it is set, a wait takes longer once.
      const auto rest = std::min<Clock::duration>(end_ - Clock::now(), std::chrono::seconds(1));
      changed_.wait_until(lock, std::chrono::system_clock::now() +
                                    std::chrono::duration_cast<std::chrono::system_clock::duration>(rest));
    }
  }

  const std::string text_;
  const Clock::time_point end_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_over_ = false;
  std::thread thread_;
};

std::string late(const std::string &function, const Library &library, double timeout) {
  return "lily-kernels: " + function + " of " + library.name + " (" + library.version + ") did not return in " +
         seconds(timeout) + ": not all ranks came; this process ends";
}

}  // namespace

Thread::Thread(Library &library, double timeout) : library_(library), timeout_(timeout) {
  thread_ = std::thread([this] { run(); });
}

void Thread::add(std::unique_ptr<Task> task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

void Thread::run() {
  while (!ends_) {
    std::unique_ptr<Task> task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return !tasks_.empty() || abort_code_ != 0; });
      if (abort_code_ == 0) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    if (task == nullptr) {
      if (world_ != nullptr) world_->abort(abort_code_);
      _exit(abort_code_);
    }
    try {
      task->run(*this);
    } catch (const std::exception &error) {
      // Other ranks wait for what this one cannot do.
      if (world_ != nullptr) world_->abort_with(std::string("failed: ") + error.what());
      write_last_line(std::string("lily-kernels: MPI failed: ") + error.what());
      _exit(1);
    }
    Task &done = *task;
    done.finished(std::move(task));
  }
}

std::string Thread::initialise() {
  const Watchdog watchdog(timeout_, late("MPI_Init_thread", library_, timeout_));
  bool is_serialized = false;
  if (const int error = library_.initialise(&is_serialized)) {
    ends_ = true;
    return "MPI_Init_thread of " + library_.name + " says: " + library_.error_text(error);
  }
  int rank = 0, size = 0;
  if (const int error = library_.rank_and_size(&rank, &size)) {
    ends_ = true;
    return "MPI_Comm_rank of " + library_.name + " says: " + library_.error_text(error);
  }
  if (!is_serialized) {
    library_.finalize();
    ends_ = true;
    return library_.name + " (" + library_.version + ") does not grant MPI_THREAD_SERIALIZED";
  }
  world_ = std::make_unique<World>(library_, rank, size, timeout_, abort_code_);
  return "";
}

Outcome Thread::finalize(const Call &call) {
  const Outcome outcome = world_->barrier(call);
  if (outcome != Outcome::kDone) return outcome;
  {
    const Watchdog watchdog(timeout_, late("MPI_Finalize", library_, timeout_));
    world_ = nullptr;
    library_.finalize();
  }
  ends_ = true;
  return outcome;
}

void Thread::abort(const std::string &text, int code) {
  if (!text.empty()) write_last_line(text);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    abort_code_ = code;
    changed_.notify_all();
  }
  // The thread ends the process, unless it is in a function of MPI that does not return.
  std::this_thread::sleep_for(kAbortTime);
  _exit(code);
}

}  // namespace lily::mpi
