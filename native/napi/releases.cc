#include "napi/releases.h"

#include "napi/environment.h"
#include "napi/errors.h"
#include "napi/shared.h"

namespace lily::napi {

uint32_t Releases::add(Napi::Env env, napi_value function, napi_value memory) {
  if (functions_.IsEmpty()) start(env);
  const uint32_t number = next_++;
  Napi::Array entry = Napi::Array::New(env, 2);
  entry.Set(uint32_t{0}, function);
  entry.Set(uint32_t{1}, memory);
  functions_.Value().Set(number, entry);
  return number;
}

void Releases::start(Napi::Env env) {
  // The queue keeps this object, because it may outlive the environment's data.
  auto *self = new Shared<Releases>(env.GetInstanceData<Environment>()->releases);
  napi_threadsafe_function queue = nullptr;
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "lily-kernels"), 0, 1, self, finish, nullptr, call, &queue);
  if (status != napi_ok) {
    delete self;
    throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", "this runtime has no thread-safe functions of Node-API");
  }
  napi_unref_threadsafe_function(env, queue);
  functions_ = Napi::Persistent(Napi::Object::New(env));
  queue_ = queue;
}

void Releases::request(uint32_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (queue_ == nullptr) return;
  void *const data = reinterpret_cast<void *>(static_cast<uintptr_t>(number));
  // Once the queue is closing, it must not be used again.
  if (napi_call_threadsafe_function(queue_, data, napi_tsfn_nonblocking) != napi_ok) queue_ = nullptr;
}

// Functions of Node-API, not of node-addon-api: an exception must not leave a callback.
void Releases::call(napi_env env, napi_value, void *, void *data) {
  if (env == nullptr) return;  // the environment ends
  const Shared<Releases> releases = Napi::Env(env).GetInstanceData<Environment>()->releases;
  const auto number = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data));
  const napi_value functions = releases->functions_.Value();
  napi_value entry = nullptr, function = nullptr, receiver = nullptr;
  if (napi_get_element(env, functions, number, &entry) != napi_ok) return;
  if (napi_get_element(env, entry, 0, &function) != napi_ok) return;
  napi_delete_element(env, functions, number, nullptr);
  napi_get_undefined(env, &receiver);
  napi_call_function(env, receiver, function, 0, nullptr, nullptr);
}

// No thread can be in request() when the queue is freed after this.
void Releases::finish(napi_env, void *data, void *) {
  auto *const releases = static_cast<Shared<Releases> *>(data);
  {
    const std::lock_guard<std::mutex> lock((*releases)->mutex_);
    (*releases)->queue_ = nullptr;
  }
  delete releases;
}

}  // namespace lily::napi
