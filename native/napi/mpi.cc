// MPI: operations of one environment of the process, which the thread of mpi/thread.h runs.
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "mpi/thread.h"
#include "napi/exports.h"
#include "napi/values.h"

namespace lily::napi {
namespace {

using mpi::Outcome;

class Operation;

// The environment that uses MPI. It is never destroyed: a process initialises MPI once.
class Client {
 public:
  // Throws if MPI is or was in use.
  static Client &create(Napi::Env env, mpi::Library &library, double timeout);
  // Throws unless init() of this environment has resolved, and finalize() has not been called.
  static Client &running(Napi::Env env);
  // Null before init(), and in other environments.
  static Client *of(Napi::Env env) {
    Client *const client = client_;
    return client != nullptr && client->env_ == napi_env(env) ? client : nullptr;
  }

  Napi::Value start(std::unique_ptr<Operation> operation);
  // On the thread of MPI.
  void finished(std::unique_ptr<mpi::Task> operation);
  [[noreturn]] void abort(const std::string &text, int code) { thread_->abort(text, code); }

  // Of this process in the job, once it is known.
  std::string name = "a rank";
  enum class Stage { kInitialising, kRunning, kFinalizing, kOver } stage = Stage::kInitialising;

 private:
  explicit Client(napi_env env) : env_(env) {}
  void settle();
  void end();
  void process_exits();

  static std::mutex mutex_;  // of create
  static std::atomic<Client *> client_;

  const napi_env env_;
  napi_threadsafe_function announce_ = nullptr;  // calls settle() on the thread of the environment
  size_t unsettled_ = 0;
  std::unique_ptr<mpi::Thread> thread_;
  std::mutex finished_mutex_;
  std::vector<std::unique_ptr<mpi::Task>> finished_;
};

std::mutex Client::mutex_;
std::atomic<Client *> Client::client_{nullptr};

// An operation, its promise and what it refers to.
class Operation : public mpi::Task {
 public:
  explicit Operation(Napi::Env env) : deferred_(Napi::Promise::Deferred::New(env)) {}

  void finished(std::unique_ptr<Task> self) override { client->finished(std::move(self)); }

  void settle(Napi::Env env) {
    try {
      try {
        deferred_.Resolve(result(env));
      } catch (const Napi::Error &error) {
        deferred_.Reject(error.Value());
      }
    } catch (const Napi::Error &) {
      // The environment is being stopped: the result has no receiver.
    }
  }

  Napi::Promise promise() const { return deferred_.Promise(); }
  // References one by one: an array of the values would run a setter on Array.prototype.
  void keep(Napi::Value value) { kept_.push_back(Napi::Persistent(value.As<Napi::Object>())); }

  Client *client = nullptr;

 protected:
  // On the thread of the environment. Throws what the promise rejects with.
  virtual Napi::Value result(Napi::Env env) = 0;

 private:
  Napi::Promise::Deferred deferred_;
  std::vector<Napi::ObjectReference> kept_;
};

Client &Client::create(Napi::Env env, mpi::Library &library, double timeout) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (client_ != nullptr) {
    throw make_error(env, "ERR_LILY_ARGUMENT",
                     of(env) != nullptr
                         ? "a process initialises MPI once"
                         : "another thread of this process uses MPI, or has used it; call init() in one thread");
  }
  auto *const client = new Client(env);
  const auto announced = [](napi_env called, napi_value, void *of, void *) {
    if (called != nullptr) static_cast<Client *>(of)->settle();
  };
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "lily-kernels"), 0, 1, nullptr,
                                      nullptr, client, announced, &client->announce_);
  if (status != napi_ok) {
    delete client;
    throw Napi::Error::New(env);
  }
  // Only pending operations keep the process running.
  napi_unref_threadsafe_function(env, client->announce_);
  try {
    client->thread_ = std::make_unique<mpi::Thread>(library, timeout);
  } catch (const std::system_error &error) {
    napi_release_threadsafe_function(client->announce_, napi_tsfn_abort);
    throw make_error(env, "ERR_LILY_OUT_OF_MEMORY", std::string("no thread can be created for MPI: ") + error.what());
  }
  napi_add_env_cleanup_hook(env, [](void *ended) { static_cast<Client *>(ended)->end(); }, client);
  client_ = client;
  // process.exit() of the main thread does not end the environment.
  atexit([] { client_.load()->process_exits(); });
  return *client;
}

Client &Client::running(Napi::Env env) {
  Client *const client = of(env);
  if (client == nullptr || client->stage == Stage::kInitialising)
    throw make_error(env, "ERR_LILY_ARGUMENT", "MPI is not initialised");
  if (client->stage != Stage::kRunning) throw make_error(env, "ERR_LILY_ARGUMENT", "MPI is finalized");
  return *client;
}

Napi::Value Client::start(std::unique_ptr<Operation> operation) {
  const Napi::Promise promise = operation->promise();
  operation->client = this;
  if (unsettled_++ == 0) napi_ref_threadsafe_function(env_, announce_);
  thread_->add(std::move(operation));
  return promise;
}

void Client::finished(std::unique_ptr<mpi::Task> operation) {
  const std::lock_guard<std::mutex> lock(finished_mutex_);
  finished_.push_back(std::move(operation));
  napi_call_threadsafe_function(announce_, nullptr, napi_tsfn_nonblocking);
}

void Client::settle() {
  std::vector<std::unique_ptr<mpi::Task>> operations;
  {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    operations.swap(finished_);
  }
  for (const std::unique_ptr<mpi::Task> &operation : operations) {
    if (--unsettled_ == 0) napi_unref_threadsafe_function(env_, announce_);
    static_cast<Operation &>(*operation).settle(env_);
  }
}

// Before the function is deleted, because hooks run in the reverse order.
void Client::end() {
  if (!thread_->has_ended()) {
    abort("lily-kernels: " + name + " ends the thread that uses MPI without finalize(), so the job is aborted", 1);
  }
  thread_->join();
  finished_.clear();
  napi_release_threadsafe_function(announce_, napi_tsfn_abort);
}

// A launcher may take an exit for the end of the rank, and leave the other ranks waiting. Nothing if MPI_Abort exits.
void Client::process_exits() {
  if (thread_->has_ended() || thread_->is_aborting()) return;
  abort("lily-kernels: " + name + " exits without finalize(), so the job is aborted", 1);
}

// ---- Arguments ----

Napi::Error argument(Napi::Env env, const char *name, const std::string &expected) {
  return argument_error(env, "ERR_LILY_ARGUMENT", name, "must be " + expected);
}

std::string text_argument(const Napi::CallbackInfo &info, size_t index, const char *name, size_t most) {
  if (!info[index].IsString()) throw argument(info.Env(), name, "a string");
  std::string text = info[index].As<Napi::String>();
  if (text.size() <= most) return text;
  throw argument(info.Env(), name, "a string of at most " + std::to_string(most) + " bytes");
}

double number_argument(const Napi::CallbackInfo &info, size_t index, const char *name) {
  if (!info[index].IsNumber()) throw argument(info.Env(), name, "a number");
  return info[index].As<Napi::Number>().DoubleValue();
}

// The elements of an array. Reading them can run getters, so addresses are taken afterwards.
std::vector<Napi::Value> list_argument(const Napi::CallbackInfo &info, size_t index, const char *name) {
  if (!info[index].IsArray()) throw argument(info.Env(), name, "an array");
  const auto list = info[index].As<Napi::Array>();
  constexpr uint32_t kMost = 1 << 20;
  const uint32_t length = list.Length();
  if (length > kMost) throw argument(info.Env(), name, "an array of at most " + std::to_string(kMost) + " elements");
  std::vector<Napi::Value> values;
  for (uint32_t i = 0; i < length; ++i) values.push_back(list.Get(i));
  return values;
}

mpi::Call call_argument(const Napi::CallbackInfo &info) {
  return {text_argument(info, 0, "label", 200), text_argument(info, 1, "key", mpi::kMostKeyBytes)};
}

std::vector<mpi::Array> memory_of(Napi::Env env, const std::vector<Napi::Value> &values) {
  std::vector<mpi::Array> arrays;
  for (const Napi::Value &value : values) {
    size_t bytes = 0;
    char *const data = static_cast<char *>(array_bytes(env, value, &bytes, "arrays"));
    arrays.push_back({data, bytes, 0});
  }
  return arrays;
}

// ---- Operations ----

// An operation that ends where the ranks do not agree on it, and resolves with their keys then.
class Agreed : public Operation {
 public:
  Agreed(Napi::Env env, mpi::Call call) : Operation(env), call_(std::move(call)) {}

  void run(mpi::Thread &thread) override {
    outcome_ = run_agreed(thread);
    if (outcome_ == Outcome::kDiffers) keys_ = thread.world().keys();
  }

 protected:
  virtual Outcome run_agreed(mpi::Thread &thread) = 0;
  virtual Napi::Value agreed_result(Napi::Env env) { return env.Null(); }

  Napi::Value result(Napi::Env env) override {
    if (outcome_ == Outcome::kDone) return agreed_result(env);
    if (outcome_ == Outcome::kNoWeight) {
      throw argument_error(env, "ERR_LILY_ARGUMENT", "weight",
                           "the weights of all ranks are 0; leave this step out on all of them");
    }
    const Napi::Array keys = Napi::Array::New(env, keys_.size());
    for (size_t i = 0; i < keys_.size(); ++i) keys.Set(static_cast<uint32_t>(i), keys_[i]);
    return keys;
  }

  const mpi::Call call_;
  Outcome outcome_ = Outcome::kDone;

 private:
  std::vector<std::string> keys_;
};

class Init : public Operation {
 public:
  using Operation::Operation;
  void run(mpi::Thread &thread) override {
    failure_ = thread.initialise();
    if (!failure_.empty()) return;
    rank_ = thread.world().rank;
    size_ = thread.world().size;
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (!failure_.empty()) {
      client->stage = Client::Stage::kOver;
      throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", failure_);
    }
    client->stage = Client::Stage::kRunning;
    client->name = "rank " + std::to_string(rank_) + " of " + std::to_string(size_);
    const Napi::Object world = Napi::Object::New(env);
    world.Set("rank", rank_);
    world.Set("size", size_);
    return world;
  }

 private:
  std::string failure_;
  int rank_ = 0, size_ = 1;
};

class Barrier : public Agreed {
 public:
  using Agreed::Agreed;

 protected:
  Outcome run_agreed(mpi::Thread &thread) override { return thread.world().barrier(call_); }
};

class Gather : public Agreed {
 public:
  Gather(Napi::Env env, mpi::Call call, const char *data, size_t bytes)
      : Agreed(env, std::move(call)), own_(data, data + bytes) {}

 protected:
  Outcome run_agreed(mpi::Thread &thread) override {
    return thread.world().gather(call_, own_.data(), own_.size(), &all_);
  }
  Napi::Value agreed_result(Napi::Env env) override {
    const Napi::Array list = Napi::Array::New(env, all_.size());
    for (size_t i = 0; i < all_.size(); ++i) {
      Napi::Uint8Array bytes = Napi::Uint8Array::New(env, all_[i].size());
      std::copy(all_[i].begin(), all_[i].end(), bytes.Data());
      list.Set(static_cast<uint32_t>(i), bytes);
    }
    return list;
  }

 private:
  const std::vector<char> own_;
  std::vector<std::vector<char>> all_;
};

class Broadcast : public Agreed {
 public:
  Broadcast(Napi::Env env, mpi::Call call, std::vector<mpi::Array> arrays)
      : Agreed(env, std::move(call)), arrays_(std::move(arrays)) {}

 protected:
  Outcome run_agreed(mpi::Thread &thread) override { return thread.world().broadcast(call_, arrays_); }

 private:
  const std::vector<mpi::Array> arrays_;
};

class Reduce : public Agreed {
 public:
  Reduce(Napi::Env env, mpi::Call call, std::vector<mpi::Array> arrays, double weight, size_t bucket_bytes)
      : Agreed(env, std::move(call)), arrays_(std::move(arrays)), weight_(weight), bucket_bytes_(bucket_bytes) {}

 protected:
  Outcome run_agreed(mpi::Thread &thread) override {
    return thread.world().reduce(call_, arrays_, weight_, bucket_bytes_);
  }

 private:
  const std::vector<mpi::Array> arrays_;
  const double weight_;
  const size_t bucket_bytes_;
};

class Finalize : public Agreed {
 public:
  using Agreed::Agreed;

 protected:
  Outcome run_agreed(mpi::Thread &thread) override { return thread.finalize(call_); }
  Napi::Value result(Napi::Env env) override {
    client->stage = outcome_ == Outcome::kDone ? Client::Stage::kOver : Client::Stage::kRunning;
    return Agreed::result(env);
  }
};

// ---- Functions ----

std::mutex library_mutex;
mpi::Library *opened_library = nullptr;

// (candidates) -> { name, version, implementation }
Napi::Value open(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  std::vector<std::string> candidates;
  for (const Napi::Value &name : list_argument(info, 0, "candidates")) {
    if (!name.IsString()) throw argument(env, "candidates", "an array of strings");
    candidates.push_back(name.As<Napi::String>());
  }
  const std::lock_guard<std::mutex> lock(library_mutex);
  if (opened_library == nullptr) {
    std::vector<std::string> reasons;
    opened_library = mpi::open_library(candidates, &reasons);
    if (opened_library == nullptr) {
      std::string text;
      for (const std::string &reason : reasons) text += (text.empty() ? "" : "\n") + reason;
      throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", text);
    }
  }
  const Napi::Object library = Napi::Object::New(env);
  library.Set("name", opened_library->name);
  library.Set("version", opened_library->version);
  library.Set("implementation", opened_library->implementation);
  return library;
}

// (milliseconds) -> promise of { rank, size }
Napi::Value init(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const double timeout = number_argument(info, 0, "timeout");
  if (!(timeout > 0 && timeout <= 1e12)) throw argument(env, "timeout", "a number of milliseconds above 0");
  mpi::Library *library = nullptr;
  {
    const std::lock_guard<std::mutex> lock(library_mutex);
    library = opened_library;
  }
  if (library == nullptr) throw make_error(env, "ERR_LILY_ARGUMENT", "no library of MPI is open");
  return Client::create(env, *library, timeout / 1000).start(std::make_unique<Init>(env));
}

// (label, key) -> promise of null or keys
Napi::Value barrier(const Napi::CallbackInfo &info) {
  mpi::Call call = call_argument(info);
  return Client::running(info.Env()).start(std::make_unique<Barrier>(info.Env(), std::move(call)));
}

// (label, key, bytes) -> promise of the bytes of all ranks, or keys
Napi::Value gather(const Napi::CallbackInfo &info) {
  mpi::Call call = call_argument(info);
  size_t bytes = 0;
  const char *const data = static_cast<const char *>(array_bytes(info.Env(), info[2], &bytes, "bytes"));
  Client &client = Client::running(info.Env());
  return client.start(std::make_unique<Gather>(info.Env(), std::move(call), data, bytes));
}

// (label, key, arrays) -> promise of null or keys
Napi::Value broadcast(const Napi::CallbackInfo &info) {
  mpi::Call call = call_argument(info);
  const std::vector<Napi::Value> values = list_argument(info, 2, "arrays");
  std::vector<mpi::Array> arrays = memory_of(info.Env(), values);
  Client &client = Client::running(info.Env());
  auto operation = std::make_unique<Broadcast>(info.Env(), std::move(call), std::move(arrays));
  for (const Napi::Value &value : values) operation->keep(value);
  return client.start(std::move(operation));
}

// (label, key, arrays, dtypes, weight, bucketBytes) -> promise of null or keys
Napi::Value reduce(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  mpi::Call call = call_argument(info);
  const std::vector<Napi::Value> values = list_argument(info, 2, "arrays"), dtypes = list_argument(info, 3, "dtypes");
  const double weight = number_argument(info, 4, "weight");
  if (!isnan(weight) && !(weight >= 0 && weight <= 1e300)) throw argument(env, "weight", "NaN, or a number from 0 on");
  const int64_t bucket_bytes =
      whole_number(env, number_argument(info, 5, "bucketBytes"), 1, int64_t{1} << 40, "bucketBytes");
  if (dtypes.size() != values.size()) throw argument(env, "dtypes", "as many as there are arrays");
  std::vector<mpi::Array> arrays = memory_of(env, values);
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (!dtypes[i].IsNumber()) throw argument(env, "dtypes", "numbers");
    mpi::Array &array = arrays[i];
    array.dtype = static_cast<int32_t>(whole_number(env, dtypes[i].As<Napi::Number>().DoubleValue(), 0, 2, "dtypes"));
    const size_t element_bytes = array.dtype == LILY_FLOAT32 ? 4 : 2;
    if (array.bytes % element_bytes != 0 || reinterpret_cast<uintptr_t>(array.data) % element_bytes != 0) {
      throw argument(env, "arrays", "whole elements of their dtypes");
    }
  }
  Client &client = Client::running(env);
  auto operation =
      std::make_unique<Reduce>(env, std::move(call), std::move(arrays), weight, static_cast<size_t>(bucket_bytes));
  for (const Napi::Value &value : values) operation->keep(value);
  return client.start(std::move(operation));
}

// (label, key) -> promise of null or keys
Napi::Value finalize(const Napi::CallbackInfo &info) {
  mpi::Call call = call_argument(info);
  Client &client = Client::running(info.Env());
  client.stage = Client::Stage::kFinalizing;
  return client.start(std::make_unique<Finalize>(info.Env(), std::move(call)));
}

// (text, code): does not return.
void abort(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsString()) throw argument(env, "text", "a string");
  const std::string text = info[0].As<Napi::String>();
  const int code = static_cast<int>(whole_number(env, number_argument(info, 1, "code"), 1, 255, "code"));
  if (Client *const client = Client::of(env); client != nullptr && client->stage != Client::Stage::kOver) {
    client->abort(text, code);
  }
  mpi::write_last_line(text);
  _exit(code);
}

}  // namespace

void add_mpi_functions(Napi::Env env, Napi::Object exports) {
  const Napi::Object functions = Napi::Object::New(env);
  functions.Set("open", Napi::Function::New<open>(env));
  functions.Set("init", Napi::Function::New<init>(env));
  functions.Set("barrier", Napi::Function::New<barrier>(env));
  functions.Set("gather", Napi::Function::New<gather>(env));
  functions.Set("broadcast", Napi::Function::New<broadcast>(env));
  functions.Set("reduce", Napi::Function::New<reduce>(env));
  functions.Set("finalize", Napi::Function::New<finalize>(env));
  functions.Set("abort", Napi::Function::New<abort>(env));
  exports.Set("mpi", functions);
}

}  // namespace lily::napi
