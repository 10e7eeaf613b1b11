// The operations: unpack, take a workspace, call the ABI. Each runs on the calling thread or, as Async, on libuv's
// pool.
#include "napi/calls.h"

#include <string>
#include <vector>

#include "core/caching_pool.h"
#include "core/problem.h"
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
  if (const lily_status status = Operation::workspace(backend, arguments.problem(), &bytes)) {
    throw make_error(info.Env(), backend, status);
  }
  PooledBlock workspace(caching_pool(backend, call.problem.device), bytes);
  if (workspace.data() == nullptr) {
    throw make_error(info.Env(), "ERR_LILY_OUT_OF_MEMORY",
                     "no memory for a workspace of " + std::to_string(bytes) + " bytes");
  }
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  return {backend, call, std::move(workspace)};
}

template <typename Operation>
void run(const Napi::CallbackInfo &info) {
  const Prepared<Operation> prepared = prepare<Operation>(info);
  if (const lily_status status = prepared.run()) throw make_error(info.Env(), prepared.backend, status);
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
    status_ = prepared_.run();
    if (status_ != LILY_OK) SetError(prepared_.backend.last_error());  // of this thread
  }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error &error) override {
    const char *code = status_ == LILY_ERROR_OUT_OF_MEMORY ? "ERR_LILY_OUT_OF_MEMORY"
                       : status_ == LILY_ERROR_DEVICE      ? "ERR_LILY_CUDA"
                                                           : "ERR_LILY_ARGUMENT";
    deferred_.Reject(make_error(Env(), code, error.Message()).Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  Prepared<Operation> prepared_;
  Napi::ObjectReference operands_;
  lily_status status_ = LILY_OK;
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
  const auto *groups =
      static_cast<const double *>(array_memory(info.Env(), info[2], layer_count, sizeof(double), "groups"));
  std::vector<lily_deferred> layers;
  for (int64_t i = 0; i < layer_count; ++i) {
    const Napi::Value partial = partials[static_cast<uint32_t>(i)], weight = weights[static_cast<uint32_t>(i)];
    const int64_t slabs = static_cast<int64_t>(groups[i]);
    if (slabs < 0 || slabs > kMaxExperts || (weight.IsNull() && slabs != problem.experts)) {
      throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "groups do not match the deferred gradients");
    }
    layers.push_back({static_cast<const float *>(array_memory(info.Env(), partial, slabs * problem.rank * problem.d_out,
                                                              sizeof(float), "a deferred gradient")),
                      weight.IsNull()
                          ? nullptr
                          : static_cast<const float *>(array_memory(info.Env(), weight, slabs * problem.experts,
                                                                    sizeof(float), "weights of a deferred gradient")),
                      slabs});
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
  if (const lily_status status = arguments.backend().fold(&call)) {
    throw make_error(info.Env(), arguments.backend(), status);
  }
}

Napi::Value measure_roof(const Napi::CallbackInfo &info) {
  const lily_backend *backend = backend_by_number(info[0].As<Napi::Number>().DoubleValue());
  if (backend == nullptr) throw make_error(info.Env(), "ERR_LILY_BACKEND_UNAVAILABLE", "no such backend");
  double rate = 0.0;
  const lily_status status =
      backend->measure_roof(info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Number>().Int32Value(),
                            static_cast<size_t>(info[3].As<Napi::Number>().Int64Value()), &rate);
  if (status != LILY_OK) throw make_error(info.Env(), *backend, status);
  return Napi::Number::New(info.Env(), rate);
}

Napi::Value backends(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const lily_backend &cpu = *lily_cpu_backend();
  Napi::Object entry = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
  int32_t count = 0;
  const lily_status status = cpu.device_count(&count);
  entry.Set("name", cpu.name);
  entry.Set("available", status == LILY_OK);
  if (status != LILY_OK) entry.Set("reason", cpu.last_error());
  for (int32_t device = 0; device < count; ++device) {
    lily_device_info found;
    if (cpu.device_info(device, &found) != LILY_OK) continue;
    Napi::Object described = Napi::Object::New(env);
    described.Set("id", device);
    described.Set("name", found.name);
    described.Set("detail", found.detail);
    described.Set("memoryBytes", static_cast<double>(found.memory_bytes));
    described.Set("parallelism", found.parallelism);
    devices[static_cast<uint32_t>(device)] = described;
  }
  entry.Set("devices", devices);

  Napi::Object cuda = Napi::Object::New(env);
  cuda.Set("name", "cuda");
  cuda.Set("available", false);
  cuda.Set("reason", "this version of lily-kernels has no CUDA backend");
  cuda.Set("devices", Napi::Array::New(env));

  Napi::Array all = Napi::Array::New(env);
  all[0u] = entry;
  all[1u] = cuda;
  return all;
}

const lily_backend *backend_by_number(double number) { return number == 0 ? lily_cpu_backend() : nullptr; }

}  // namespace lily::napi
