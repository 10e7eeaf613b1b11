// Calls of operations: each is read by binding/reader.h, takes a workspace from the pool and calls the ABI. It runs on
// the calling thread or, as an async function, on libuv's thread pool. A CUDA call only enqueues work, on the calling
// thread.
#include <array>
#include <utility>
#include <vector>

#include "core/caching_pool.h"
#include "lily/cpu.h"
#include "napi/exports.h"
#include "napi/values.h"

namespace lily::napi {
namespace {

using binding::Memory;

// A list of `count` elements, which is on the stack unless there are many parameters.
template <typename T, size_t kFew>
class List {
 public:
  T *resize(size_t count) {
    if (count > kFew) many_.resize(count);
    return data_ = count > kFew ? many_.data() : few_.data();
  }
  T *data() const { return data_; }

 private:
  std::array<T, kFew> few_;
  std::vector<T> many_;
  T *data_ = nullptr;
};

// (descriptor, ...operands): the numbers of the call, and one operand for each slot.
class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    const auto memory_count = static_cast<int64_t>(info.Length()) - 1;
    double operation = 0.0;
    read_numbers(env, info[0], 1, &operation);
    int64_t count = 0;
    const binding::Table *const table = binding::table_of(operation, memory_count, &count);
    if (table == nullptr) {
      throw make_error(env, "ERR_LILY_ARGUMENT",
                       "the descriptor is of no operation with " + std::to_string(memory_count) + " operands");
    }
    double *const numbers = numbers_.resize(static_cast<size_t>(count));
    read_numbers(env, info[0], count, numbers);
    numbers[binding::placement_field::operation] = operation;
    const lily_backend &backend = available_backend(env, numbers[binding::placement_field::backend]);
    const int32_t device = usable_device_of(env, backend, numbers[binding::placement_field::device]);
    Memory *const memory = memory_.resize(static_cast<size_t>(memory_count));
    const double *const slots = numbers + count - memory_count * binding::slot_field::kCount;
    source_ = {table, numbers, slots, memory, memory_count, &backend, device};
    for (int64_t slot = 0; slot < memory_count; ++slot) memory[slot] = read(info, slot);
  }

  const binding::Source &source() const { return source_; }
  // What the call refers to beside the operands.
  std::vector<char> take_copy() { return std::move(copy_); }

 private:
  Memory read(const Napi::CallbackInfo &info, int64_t slot) {
    const double *const numbers = source_.slot_numbers(slot);
    if (!binding::is_given(numbers)) return {};
    const binding::Slot &row = source_.slot(slot);
    const napi_value value = info[static_cast<size_t>(slot) + 1];
    int64_t offset = 0, bytes = 0;
    const bool is_host = source_.backend == lily_cpu_backend();
    const bool is_copied = is_host && row.use == binding::Use::copy;
    binding::Error error;
    if ((!is_host || is_copied) && !binding::find_extent(row, numbers, &offset, &bytes, &error)) {
      check(info.Env(), error);
    }
    const Memory memory = operand_memory(info.Env(), *source_.backend, source_.device, value, offset, bytes, row.name);
    if (!is_copied) return memory;
    if (!binding::check_bytes(row.name, memory, offset, bytes, alignof(int32_t), &error)) check(info.Env(), error);
    if (bytes == 0) return memory;
    copy_.assign(memory.data + offset, memory.data + offset + bytes);
    return {copy_.data() - offset, offset + bytes};
  }

  List<double, 128> numbers_;
  List<Memory, 16> memory_;
  std::vector<char> copy_;
  binding::Source source_ = {};
};

// A call that any thread can run, with what it refers to beside the operands.
struct Prepared {
  explicit Prepared(const Napi::CallbackInfo &info) : Prepared(info.Env(), Arguments(info)) {}

  lily_status run() const { return call.run(); }

  binding::Lists lists;
  binding::Call call;
  std::vector<char> copy;
  PooledBlock workspace;

 private:
  Prepared(Napi::Env env, Arguments &&arguments)
      : call(read(env, arguments.source())), copy(arguments.take_copy()), workspace(take_workspace(env)) {
    call.give_workspace(workspace.data(), workspace.bytes());
  }

  binding::Call read(Napi::Env env, const binding::Source &source) {
    binding::Call found;
    check(env, binding::read_call(source, &found, &lists));
    return found;
  }

  PooledBlock take_workspace(Napi::Env env) const {
    size_t bytes = 0;
    check(env, *call.backend, call.workspace_bytes(&bytes));
    if (bytes == 0) return {};
    PooledBlock block(caching_pool(*call.backend, call.device), bytes, call.memory_stream);
    if (block.data() == nullptr) throw out_of_memory(env, *call.backend, "a workspace", bytes);
    return block;
  }
};

class Worker : public Napi::AsyncWorker {
 public:
  Worker(const Napi::CallbackInfo &info, Prepared prepared)
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
  void Execute() override { failure_ = Failure(*prepared_.call.backend, prepared_.run()); }
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
  Prepared prepared_;
  std::vector<Napi::ObjectReference> operands_;
  Failure failure_;
};

}  // namespace

void run(const Napi::CallbackInfo &info) {
  const Prepared prepared(info);
  check(info.Env(), *prepared.call.backend, prepared.run());
}

// The pool keeps the workspace.
void reserve(const Napi::CallbackInfo &info) { const Prepared prepared(info); }

Napi::Value run_async(const Napi::CallbackInfo &info) {
  auto *worker = new Worker(info, Prepared(info));
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

Napi::Value packed_bytes(const Napi::CallbackInfo &info) {
  const Arguments arguments(info);
  size_t bytes = 0;
  check(info.Env(), binding::read_packed_bytes(arguments.source(), &bytes));
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

}  // namespace lily::napi
