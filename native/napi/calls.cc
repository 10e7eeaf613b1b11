// Forward and backward of an adapter, and the product of a frozen linear layer: each reads its arguments, takes a
// workspace from the pool and calls the ABI. A call runs on the calling thread or, as an async function, on libuv's
// thread pool. A CUDA call only enqueues work, on the calling thread.
#include <string.h>

#include <utility>
#include <vector>

#include "core/caching_pool.h"
#include "napi/arguments.h"
#include "napi/exports.h"
#include "napi/linear_arguments.h"

namespace lily::napi {
namespace {

struct Forward {
  using Call = lily_forward;
  static Arguments arguments(const Napi::CallbackInfo &info) {
    return {info, forward_slot::kNames, forward_slot::kCount};
  }
  static Call read(Arguments &arguments) { return read_forward(arguments); }
  static lily_status workspace(const lily_backend &backend, const lily_problem &problem, size_t *bytes) {
    return backend.forward_workspace(&problem, bytes);
  }
  static lily_status run(const lily_backend &backend, const Call &call) { return backend.forward(&call); }
};

struct Backward {
  using Call = lily_backward;
  static Arguments arguments(const Napi::CallbackInfo &info) {
    return {info, backward_slot::kNames, backward_slot::kCount};
  }
  static Call read(Arguments &arguments) { return read_backward(arguments); }
  static lily_status workspace(const lily_backend &backend, const lily_problem &problem, size_t *bytes) {
    return backend.backward_workspace(&problem, bytes);
  }
  static lily_status run(const lily_backend &backend, const Call &call) { return backend.backward(&call); }
};

struct Linear {
  using Call = lily_linear;
  static LinearArguments arguments(const Napi::CallbackInfo &info) { return LinearArguments(info); }
  static Call read(LinearArguments &arguments) { return arguments.call(); }
  static lily_status workspace(const lily_backend &backend, const lily_linear_problem &problem, size_t *bytes) {
    return backend.linear_workspace(&problem, bytes);
  }
  static lily_status run(const lily_backend &backend, const Call &call) { return backend.linear(&call); }
};

// A call that any thread can run.
template <typename Operation>
struct Prepared {
  const lily_backend &backend;
  typename Operation::Call call;
  PooledBlock workspace;
  std::vector<int32_t> sequence_offsets;  // what the call refers to

  lily_status run() const { return Operation::run(backend, call); }
};

// The bytes of the workspace of the last call on this thread. They depend on the problem alone, and finding them takes
// a plan of the call; training and serving repeat the same problem.
template <typename Operation, typename Problem>
size_t workspace_bytes(Napi::Env env, const lily_backend &backend, const Problem &problem) {
  struct Known {
    const lily_backend *backend;
    Problem problem;
    size_t bytes;
  };
  thread_local Known known = {};
  if (known.backend == &backend && memcmp(&known.problem, &problem, sizeof problem) == 0) return known.bytes;
  size_t bytes = 0;
  check(env, backend, Operation::workspace(backend, problem, &bytes));
  known = {&backend, problem, bytes};
  return bytes;
}

template <typename Operation>
Prepared<Operation> prepare(const Napi::CallbackInfo &info) {
  auto arguments = Operation::arguments(info);
  const lily_backend &backend = arguments.backend();
  typename Operation::Call call = Operation::read(arguments);
  const size_t bytes = workspace_bytes<Operation>(info.Env(), backend, arguments.problem());
  PooledBlock workspace(caching_pool(backend, call.problem.device), bytes, arguments.memory_stream());
  if (workspace.data() == nullptr) throw out_of_memory(info.Env(), backend, "a workspace", bytes);
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  return {backend, call, std::move(workspace), arguments.take_offsets()};
}

template <typename Operation>
void run(const Napi::CallbackInfo &info) {
  const Prepared<Operation> prepared = prepare<Operation>(info);
  check(info.Env(), prepared.backend, prepared.run());
}

template <typename Operation>
class Worker : public Napi::AsyncWorker {
 public:
  Worker(const Napi::CallbackInfo &info, Prepared<Operation> prepared)
      : Napi::AsyncWorker(info.Env(), "lily-kernels"),
        deferred_(Napi::Promise::Deferred::New(info.Env())),
        prepared_(std::move(prepared)) {
    // Keep the memory of the operands alive during the call. An array of them would run a setter on Array.prototype.
    operands_.reserve(info.Length());
    for (size_t i = 0; i < info.Length(); ++i) {
      if (info[i].IsObject()) operands_.push_back(Napi::Persistent(info[i].As<Napi::Object>()));
    }
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { failure_ = Failure(prepared_.backend, prepared_.run()); }
  void OnOK() override {
    if (failure_.status == LILY_OK) {
      deferred_.Resolve(Env().Undefined());
    } else {
      deferred_.Reject(failure_.error(Env()).Value());
    }
  }
  // An exception of Execute: the standard library found no memory.
  void OnError(const Napi::Error &error) override {
    deferred_.Reject(make_error(Env(), "ERR_LILY_OUT_OF_MEMORY", error.Message()).Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  Prepared<Operation> prepared_;
  std::vector<Napi::ObjectReference> operands_;
  Failure failure_;
};

template <typename Operation>
Napi::Value run_async(const Napi::CallbackInfo &info) {
  auto *worker = new Worker<Operation>(info, prepare<Operation>(info));
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void forward(const Napi::CallbackInfo &info) { run<Forward>(info); }
Napi::Value forward_async(const Napi::CallbackInfo &info) { return run_async<Forward>(info); }
void backward(const Napi::CallbackInfo &info) { run<Backward>(info); }
Napi::Value backward_async(const Napi::CallbackInfo &info) { return run_async<Backward>(info); }
void linear(const Napi::CallbackInfo &info) { run<Linear>(info); }
Napi::Value linear_async(const Napi::CallbackInfo &info) { return run_async<Linear>(info); }

Napi::Value linear_packed_bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(LinearArguments(info).packed_bytes()));
}

void linear_pack(const Napi::CallbackInfo &info) {
  const LinearArguments arguments(info);
  const lily_linear call = arguments.pack_call();
  void *const packed = arguments.packed();
  check(info.Env(), arguments.backend(), arguments.backend().linear_pack(&call, packed));
}

}  // namespace lily::napi
