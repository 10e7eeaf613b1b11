// Functions of JavaScript that release memory which other addons use.
#pragma once

#include <napi.h>

#include <mutex>

namespace lily::napi {

// The functions of one environment. Any thread may ask for the call of one of them, also after the end of the
// environment, when nothing is called any more.
class Releases {
 public:
  // In the environment's thread. Returns the number of the function. The memory is kept reachable until the call.
  uint32_t add(Napi::Env env, napi_value function, napi_value memory);

  // Has the environment's thread call a function and forget it and its memory. The event loop does not wait for this.
  void request(uint32_t number);

  // In the environment's thread: the environment ends.
  void end() { functions_.Reset(); }

 private:
  void start(Napi::Env env);
  static void call(napi_env env, napi_value, void *, void *number);
  static void finish(napi_env, void *releases, void *);

  uint32_t next_ = 0;
  Napi::ObjectReference functions_;  // by number: [function, memory]
  std::mutex mutex_;
  napi_threadsafe_function queue_ = nullptr;  // null: not started, or ended
};

}  // namespace lily::napi
