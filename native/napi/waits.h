// Promises that wait for events of a device. One thread of the process waits for all of them, so that waits occupy none
// of libuv's threads.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>
#include <vector>

#include "napi/errors.h"
#include "napi/shared.h"
#include "napi/streams.h"

namespace lily::napi {

// A wait for an event, and the promise that it settles.
class Wait {
 public:
  Wait(Napi::Env env, Shared<Event> event) : deferred_(Napi::Promise::Deferred::New(env)), event_(std::move(event)) {}
  Wait(const Wait &) = delete;
  Wait &operator=(const Wait &) = delete;
  virtual ~Wait() = default;

  // Hands the wait to the waiting thread and returns the promise.
  static Napi::Value start(std::unique_ptr<Wait> wait);

  // On the waiting thread: whether the event has passed, or will never pass because its device has failed.
  bool is_over();
  // On the thread of the environment, when it is over.
  void settle(Napi::Env env);

 protected:
  // Runs on the thread of the environment after the event. What it throws rejects the promise.
  virtual void passed(Napi::Env) {}

 private:
  Napi::Promise::Deferred deferred_;
  const Shared<Event> event_;
  Failure failure_;
};

// The waits of one environment. It is created by the first wait, and deleted when the environment ends.
class Waits {
 public:
  static Waits *create(Napi::Env env);

  // On the thread of the environment.
  void add(std::unique_ptr<Wait> wait);
  // Drops all waits. Their promises stay pending, since no JavaScript of the environment runs any more.
  void close();

 private:
  friend class WaitingThread;

  explicit Waits(Napi::Env env) : env_(env) {}
  ~Waits() = default;
  static void end(void *waits);
  static void finalize(napi_env env, void *waits, void *);
  static void announced(napi_env env, napi_value, void *waits, void *);
  void settle_over();

  const Napi::Env env_;
  napi_threadsafe_function announce_ = nullptr;  // calls settle_over on the thread of the environment
  size_t unsettled_ = 0;
  // Guarded by the mutex of the waiting thread.
  std::vector<std::unique_ptr<Wait>> over_;
  bool is_closed_ = false;
};

}  // namespace lily::napi
