#include "napi/waits.h"

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>

#include "napi/environment.h"

namespace lily::napi {

// Asks CUDA about every pending event in turn. It does not block on one event, because others may pass earlier, and it
// does not use host functions of the streams, because CUDA does not call them after the device has failed.
class WaitingThread {
 public:
  // Never destroyed: environments can end late.
  static WaitingThread &instance() {
    static auto *const thread = new WaitingThread;
    return *thread;
  }

  // Throws std::system_error if the thread cannot be created.
  void add(Waits &owner, std::unique_ptr<Wait> wait) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { run(); });
      // The CUDA library must not be in use when the process unloads it. It is open, so its exit handlers run later.
      atexit([] { instance().stop(); });
    }
    pending_.push_back({&owner, std::move(wait)});
    last_change_ = Clock::now();
    changed_.notify_all();
  }

  std::vector<std::unique_ptr<Wait>> take_over(Waits &owner) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(owner.over_, {});
  }

  // The waits that `owner` still had. None of them is in use by this thread any more.
  std::vector<std::unique_ptr<Wait>> close(Waits &owner) {
    std::unique_lock<std::mutex> lock(mutex_);
    owner.is_closed_ = true;
    changed_.wait(lock, [&] { return asked_ != &owner; });
    std::vector<std::unique_ptr<Wait>> left = std::exchange(owner.over_, {});
    for (auto at = pending_.begin(); at != pending_.end();) {
      if (at->owner == &owner) left.push_back(std::move(at->wait));
      at = at->owner == &owner ? pending_.erase(at) : std::next(at);
    }
    return left;
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Pending {
    Waits *owner;
    std::unique_ptr<Wait> wait;
  };

  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stops_) {
      if (pending_.empty()) {
        changed_.wait(lock, [this] { return stops_ || !pending_.empty(); });
        continue;
      }
      if (ask_all(lock)) last_change_ = Clock::now();
      const Clock::duration pause = pause_after(Clock::now() - last_change_);
      lock.unlock();
      std::this_thread::sleep_for(pause);
      lock.lock();
    }
  }

  // Returns whether a wait is over. The lock is not held while CUDA is asked.
  bool ask_all(std::unique_lock<std::mutex> &lock) {
    bool any = false;
    for (auto at = pending_.begin(); at != pending_.end() && !stops_;) {
      Waits &owner = *at->owner;
      if (owner.is_closed_) {
        ++at;  // close() removes it
        continue;
      }
      asked_ = &owner;
      lock.unlock();
      const bool is_over = at->wait->is_over();
      lock.lock();
      asked_ = nullptr;
      changed_.notify_all();
      if (!is_over) {
        ++at;
        continue;
      }
      any = true;
      // An environment that ends calls close() under this lock, before the function is deleted.
      if (!owner.is_closed_) napi_call_threadsafe_function(owner.announce_, nullptr, napi_tsfn_nonblocking);
      owner.over_.push_back(std::move(at->wait));
      at = pending_.erase(at);
    }
    return any;
  }

  // A small part of the time that a wait takes anyway, and too short to be noticed.
  static Clock::duration pause_after(Clock::duration waited) {
    constexpr Clock::duration kShortest = std::chrono::microseconds(20), kLongest = std::chrono::microseconds(500);
    return std::clamp(waited / 16, kShortest, kLongest);
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stops_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Pending> pending_;
  const Waits *asked_ = nullptr;   // the owner of the wait that is being asked about
  Clock::time_point last_change_;  // the last time that a wait was added or over
  bool stops_ = false;
  std::thread thread_;
};

Napi::Value Wait::start(std::unique_ptr<Wait> wait) {
  const Napi::Promise promise = wait->deferred_.Promise();
  const Napi::Env env = promise.Env();
  Environment &environment = *env.GetInstanceData<Environment>();
  if (environment.waits == nullptr) environment.waits = Waits::create(env);
  environment.waits->add(std::move(wait));
  return promise;
}

bool Wait::is_over() {
  int32_t ready = 0;
  failure_ = Failure(event_->backend, event_->backend.event_query(event_->device, event_->event, &ready));
  return failure_.status != LILY_OK || ready != 0;
}

void Wait::settle(Napi::Env env) {
  try {
    try {
      if (failure_.status != LILY_OK) throw failure_.error(env);
      passed(env);
      deferred_.Resolve(env.Undefined());
    } catch (const Napi::Error &error) {
      deferred_.Reject(error.Value());
    }
  } catch (const Napi::Error &) {
    // The environment is being stopped: the result has no receiver.
  }
}

// Hooks run in the reverse order, so this one runs before the function is deleted.
void Waits::end(void *waits) {
  static_cast<Waits *>(waits)->close();
  napi_release_threadsafe_function(static_cast<Waits *>(waits)->announce_, napi_tsfn_abort);
}

void Waits::finalize(napi_env env, void *waits, void *) {
  napi_remove_env_cleanup_hook(env, end, waits);
  static_cast<Waits *>(waits)->close();
  delete static_cast<Waits *>(waits);
}

void Waits::announced(napi_env env, napi_value, void *waits, void *) {
  if (env != nullptr) static_cast<Waits *>(waits)->settle_over();
}

Waits *Waits::create(Napi::Env env) {
  auto *const waits = new Waits(env);
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "lily-kernels"), 0, 1, waits,
                                      finalize, waits, announced, &waits->announce_);
  if (status != napi_ok) {
    delete waits;
    throw Napi::Error::New(env);
  }
  // Only pending waits keep the process running.
  napi_unref_threadsafe_function(env, waits->announce_);
  napi_add_env_cleanup_hook(env, end, waits);
  return waits;
}

void Waits::add(std::unique_ptr<Wait> wait) {
  try {
    WaitingThread::instance().add(*this, std::move(wait));
  } catch (const std::system_error &error) {
    throw make_error(env_, "ERR_LILY_OUT_OF_MEMORY",
                     std::string("no thread can be created that waits for the device: ") + error.what());
  }
  if (unsettled_++ == 0) napi_ref_threadsafe_function(env_, announce_);
}

void Waits::settle_over() {
  for (const std::unique_ptr<Wait> &wait : WaitingThread::instance().take_over(*this)) {
    if (--unsettled_ == 0) napi_unref_threadsafe_function(env_, announce_);
    wait->settle(env_);
  }
}

void Waits::close() { WaitingThread::instance().close(*this); }

}  // namespace lily::napi
