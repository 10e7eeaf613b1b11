// The operations: unpack, take a workspace, call the ABI. Each runs on the calling thread or, as Async, on libuv's
// pool; a CUDA call only enqueues, on the calling thread.
#include "napi/calls.h"

#include <string>
#include <vector>

#include "core/caching_pool.h"
#include "core/problem.h"
#include "napi/backends.h"
#include "napi/operands.h"

namespace lily::napi {
namespace {

struct Forward {
  using Call = lily_forward;
  static constexpr auto kSlotNames = forward_slot::kNames;
  static constexpr int kSlotCount = forward_slot::kCount;
  static Call read(const Arguments &arguments) { return read_forward(arguments); }
  static lily_status workspace(const lily_backend &backend, const lily_problem &problem, size_t *bytes) {
    return backend.forward_workspace(&problem, bytes);
  }
  static lily_status run(const lily_backend &backend, const Call &call) { return backend.forward(&call); }
};

struct Backward {
  using Call = lily_backward;
  static constexpr auto kSlotNames = backward_slot::kNames;
  static constexpr int kSlotCount = backward_slot::kCount;
  static Call read(const Arguments &arguments) { return read_backward(arguments); }
  static lily_status workspace(const lily_backend &backend, const lily_problem &problem, size_t *bytes) {
    return backend.backward_workspace(&problem, bytes);
  }
  static lily_status run(const lily_backend &backend, const Call &call) { return backend.backward(&call); }
};

// A call that is ready to run on any thread.
template <typename Operation>
struct Prepared {
  const lily_backend &backend;
  typename Operation::Call call;
  PooledBlock workspace;

  lily_status run() const { return Operation::run(backend, call); }
};

template <typename Operation>
Prepared<Operation> prepare(const Napi::CallbackInfo &info) {
  const Arguments arguments(info, Operation::kSlotNames, Operation::kSlotCount);
  const lily_backend &backend = arguments.backend();
  typename Operation::Call call = Operation::read(arguments);
  size_t bytes = 0;
  check(info.Env(), backend, Operation::workspace(backend, arguments.problem(), &bytes));
  PooledBlock workspace(caching_pool(backend, call.problem.device), bytes, arguments.home());
  if (workspace.data() == nullptr) throw out_of_memory(info.Env(), backend, "a workspace", bytes);
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  return {backend, call, std::move(workspace)};
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
    // The operands' memory must outlive the call.
    Napi::Array operands = Napi::Array::New(info.Env(), info.Length());
    for (uint32_t i = 0; i < info.Length(); ++i) operands[i] = info[i];
    operands_ = Napi::Persistent(operands.As<Napi::Object>());
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    failure_ = Failure(prepared_.backend, prepared_.run());
    if (failure_.status != LILY_OK) SetError(failure_.message);
  }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error &) override { deferred_.Reject(failure_.error(Env()).Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Prepared<Operation> prepared_;
  Napi::ObjectReference operands_;
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

void fold(const Napi::CallbackInfo &info) {
  static constexpr const char *kSlotNames[] = {"db"};
  const Arguments arguments(info, kSlotNames, 1);
  const lily_problem &problem = arguments.problem();
  const auto partials = info[3].As<Napi::Array>(), weights = info[4].As<Napi::Array>();
  const int64_t layer_count = partials.Length();
  // Two numbers for each layer: the number of its partials, and where its weights begin.
  const auto *numbers =
      static_cast<const double *>(array_memory(info.Env(), info[2], 2 * layer_count, sizeof(double), "layers"));
  std::vector<lily_deferred> layers;
  for (int64_t i = 0; i < layer_count; ++i) {
    const Napi::Value partial = partials[static_cast<uint32_t>(i)], weight = weights[static_cast<uint32_t>(i)];
    const int64_t count = static_cast<int64_t>(numbers[2 * i]);
    if (count < 0 || count > kMaxExperts || (weight.IsNull() && count != problem.experts)) {
      throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "groups do not match the deferred gradients");
    }
    lily_deferred layer = {};
    layer.partial = static_cast<const float *>(
        arguments.array_of(partial, 0, count * problem.rank * problem.d_out, sizeof(float), "a deferred gradient"));
    if (!weight.IsNull()) {
      layer.weights = static_cast<const float *>(arguments.array_of(weight, static_cast<int64_t>(numbers[2 * i + 1]),
                                                                    count * problem.experts, sizeof(float),
                                                                    "weights of a deferred gradient"));
    }
    layer.groups = count;
    layers.push_back(layer);
  }
  lily_fold call = {};
  call.rank = problem.rank;
  call.experts = problem.experts;
  call.d_out = problem.d_out;
  call.layers = layers.data();
  call.layer_count = layer_count;
  call.db = arguments.matrix(0, problem.experts * problem.rank, problem.d_out);
  call.device = problem.device;
  call.stream = arguments.stream();
  check(info.Env(), arguments.backend(), arguments.backend().fold(&call));
}

Napi::Value measure_roof(const Napi::CallbackInfo &info) {
  const lily_backend *backend = backend_by_number(info[0].As<Napi::Number>().DoubleValue());
  if (backend == nullptr) throw make_error(info.Env(), "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  double rate = 0.0;
  const lily_status status =
      backend->measure_roof(info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Number>().Int32Value(),
                            static_cast<size_t>(info[3].As<Napi::Number>().Int64Value()), &rate);
  check(info.Env(), *backend, status);
  return Napi::Number::New(info.Env(), rate);
}

}  // namespace lily::napi
