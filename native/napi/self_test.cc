#include "napi/self_test.h"

#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>

#include "core/environment.h"
#include "core/problem.h"
#include "lily/cpu.h"
#include "napi/errors.h"

namespace lily::napi {
namespace {

// Problems for the engines of the CUDA backend, and the largest difference from the CPU backend in units of the largest
// result of the same array. Both backends round to the dtype: a few of its last bits may differ. No size is a multiple
// of a tile's.
struct Engine {
  const char *name;
  int32_t dtype;
  int32_t precision;
  int64_t tokens, d_out, rank, multiprocessors;
  float tolerance;
};

// Engines of 16 bits have other kernels for large ranks, with other instructions on Hopper. Planned for one
// multiprocessor, y has the largest tiles there (128 x 256): two warpgroups, several panels of B, and two tiles of
// tokens that a block computes in turn.
constexpr Engine kEngines[] = {
    {"float32", LILY_FLOAT32, LILY_PRECISION_DEFAULT, 70, 40, 8, 0, 1e-5f},
    {"tf32", LILY_FLOAT32, LILY_PRECISION_TF32, 70, 40, 8, 0, 4e-3f},
    {"bfloat16", LILY_BFLOAT16, LILY_PRECISION_DEFAULT, 70, 40, 8, 0, 3e-2f},
    {"bfloat16", LILY_BFLOAT16, LILY_PRECISION_DEFAULT, 70, 40, 136, 0, 3e-2f},
    {"bfloat16", LILY_BFLOAT16, LILY_PRECISION_DEFAULT, 248, 248, 200, 1, 3e-2f},
    {"float16", LILY_FLOAT16, LILY_PRECISION_DEFAULT, 70, 40, 8, 0, 4e-3f},
    {"float16", LILY_FLOAT16, LILY_PRECISION_DEFAULT, 70, 40, 136, 0, 4e-3f},
    {"float16", LILY_FLOAT16, LILY_PRECISION_DEFAULT, 248, 248, 200, 1, 4e-3f},
};

constexpr int64_t kDIn = 72, kExperts = 2;

lily_problem problem_of(const Engine &engine, int32_t device) {
  lily_problem problem = {};
  problem.tokens = engine.tokens;
  problem.d_in = kDIn;
  problem.d_out = engine.d_out;
  problem.rank = engine.rank;
  problem.experts = kExperts;
  problem.groups = 1;
  problem.multiprocessors = engine.multiprocessors;
  problem.routing = LILY_ROUTING_BATCH;
  problem.pool = LILY_POOL_PROBABILITIES;
  problem.precision = engine.precision;
  problem.activation_dtype = problem.parameter_dtype = engine.dtype;
  problem.scaling = 0.5f;
  problem.device = device;
  return problem;
}

// ---- The arrays of a test, which lie one after the other in one block on either backend ----

struct Array {
  const char *name;
  int64_t rows, columns;
  bool is_float32;  // whatever the dtype of the engine is
};

enum : int {
  kX,
  kA,
  kRouter,
  kB,
  kDy,
  kInputs,
  kY = kInputs,
  kHidden,
  kProbabilities,
  kWeights,
  kDx,
  kDa,
  kDRouter,
  kDb
};

constexpr int kArrays = kDb + 1;

Array array_of(const Engine &engine, int array) {
  const int64_t rank = engine.rank, tokens = engine.tokens, d_out = engine.d_out;
  const Array arrays[kArrays] = {{"x", tokens, kDIn, false},
                                 {"a", rank, kDIn, false},
                                 {"router", kExperts, rank, false},
                                 {"b", kExperts * rank, d_out, false},
                                 {"dy", tokens, d_out, false},
                                 {"y", tokens, d_out, false},
                                 {"hidden", tokens, rank, false},
                                 {"probabilities", tokens, kExperts, true},
                                 {"weights", 1, kExperts, true},
                                 {"dx", tokens, kDIn, false},
                                 {"da", rank, kDIn, false},
                                 {"dRouter", kExperts, rank, false},
                                 {"db", kExperts * rank, d_out, false}};
  return arrays[array];
}

int32_t dtype_of(const Engine &engine, int array) {
  return array_of(engine, array).is_float32 ? LILY_FLOAT32 : engine.dtype;
}

int64_t count_of(const Engine &engine, int array) {
  const Array of = array_of(engine, array);
  return of.rows * of.columns;
}

// The offset of an array in the block; of one past the last array: the size of the block.
size_t offset_of(const Engine &engine, int array) {
  constexpr size_t kAlignment = 64;
  size_t offset = 0;
  for (int i = 0; i < array; ++i) {
    const size_t bytes = static_cast<size_t>(count_of(engine, i) * dtype_bytes(dtype_of(engine, i)));
    offset += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  return offset;
}

size_t block_bytes(const Engine &engine) { return offset_of(engine, kArrays); }

// ---- Numbers: the inputs are the same in every dtype ----

void store(float number, int32_t dtype, void *to) {
  uint32_t bits = 0;
  memcpy(&bits, &number, sizeof bits);
  if (dtype == LILY_FLOAT32) memcpy(to, &bits, 4);
  if (dtype == LILY_BFLOAT16) memcpy(to, reinterpret_cast<const char *>(&bits) + 2, 2);
  if (dtype != LILY_FLOAT16) return;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint16_t half =
      static_cast<uint16_t>((bits >> 16 & 0x8000) | (magnitude == 0 ? 0 : (magnitude >> 13) - ((127 - 15) << 10)));
  memcpy(to, &half, 2);
}

float load(const void *from, int32_t dtype) {
  if (dtype != LILY_FLOAT16) {
    uint32_t bits = 0;
    if (dtype == LILY_FLOAT32) memcpy(&bits, from, 4);
    if (dtype == LILY_BFLOAT16) memcpy(reinterpret_cast<char *>(&bits) + 2, from, 2);
    float number = 0;
    memcpy(&number, &bits, sizeof number);
    return number;
  }
  uint16_t half = 0;
  memcpy(&half, from, 2);
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float magnitude = exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                         : ldexpf(static_cast<float>(exponent == 0 ? fraction : fraction + 1024),
                                                  std::max(exponent, 1) - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

// Multiples of 1/8 from -1/2 to 1/2. The router's numbers are divided by 16 at the large rank: a softmax of large
// logits would have gradients of rounding errors.
float input(const Engine &engine, int array, int64_t index) {
  const float number = static_cast<float>((index * 5 + index / 7 + array * 3) % 9 - 4) / 8;
  return array == kRouter && engine.rank > 8 ? number / 16 : number;
}

void fill_inputs(const Engine &engine, char *block) {
  for (int array = 0; array < kInputs; ++array) {
    const int32_t dtype = dtype_of(engine, array);
    char *to = block + offset_of(engine, array);
    for (int64_t i = 0; i < count_of(engine, array); ++i)
      store(input(engine, array, i), dtype, to + i * dtype_bytes(dtype));
  }
}

// ---- The two calls ----

lily_matrix matrix(const Engine &engine, char *block, int array) {
  return {block + offset_of(engine, array), array_of(engine, array).columns, dtype_of(engine, array), 0};
}

lily_status workspace_bytes(const lily_backend &backend, const lily_problem &problem, size_t *bytes) {
  size_t forward = 0, backward = 0;
  lily_status status = backend.forward_workspace(&problem, &forward);
  if (status == LILY_OK) status = backend.backward_workspace(&problem, &backward);
  *bytes = std::max(forward, backward);
  return status;
}

lily_status run(const lily_backend &backend, const Engine &engine, const lily_problem &problem, char *block,
                void *workspace, size_t bytes) {
  const auto floats = [&](int array) { return reinterpret_cast<float *>(block + offset_of(engine, array)); };
  lily_forward forward = {};
  forward.problem = problem;
  forward.x = matrix(engine, block, kX);
  forward.a = matrix(engine, block, kA);
  forward.router = matrix(engine, block, kRouter);
  forward.b = matrix(engine, block, kB);
  forward.y = matrix(engine, block, kY);
  forward.hidden = block + offset_of(engine, kHidden);
  forward.probabilities = floats(kProbabilities);
  forward.weights = floats(kWeights);
  forward.workspace = workspace;
  forward.workspace_bytes = bytes;
  if (const lily_status status = backend.forward(&forward)) return status;
  lily_backward backward = {};
  backward.problem = problem;
  backward.dy = matrix(engine, block, kDy);
  backward.x = forward.x;
  backward.a = forward.a;
  backward.router = forward.router;
  backward.b = forward.b;
  backward.hidden = forward.hidden;
  backward.probabilities = forward.probabilities;
  backward.weights = forward.weights;
  backward.dx = matrix(engine, block, kDx);
  backward.da = matrix(engine, block, kDa);
  backward.d_router = matrix(engine, block, kDRouter);
  backward.db = matrix(engine, block, kDb);
  backward.workspace = workspace;
  backward.workspace_bytes = bytes;
  return backend.backward(&backward);
}

// What a test holds of a backend; the destructor releases it.
class Resources {
 public:
  Resources(const lily_backend &backend, int32_t device) : backend_(backend), device_(device) {}
  Resources(const Resources &) = delete;
  Resources &operator=(const Resources &) = delete;
  ~Resources() {
    if (event != 0) backend_.event_destroy(device_, event);
    if (host != nullptr) backend_.release_pinned(device_, host);
    if (block != nullptr) backend_.release(device_, block);
    if (workspace != nullptr) backend_.release(device_, workspace);
  }

  void *block = nullptr, *workspace = nullptr, *host = nullptr;
  lily_event event = 0;

 private:
  const lily_backend &backend_;
  const int32_t device_;
};

// Runs a test on a backend and copies the block with the results to `result`.
Failure run_on(const lily_backend &backend, const Engine &engine, int32_t device, char *result) {
  const lily_problem problem = problem_of(engine, device);
  const size_t bytes = block_bytes(engine);
  size_t needed = 0;
  Resources held(backend, device);
  lily_status status = workspace_bytes(backend, problem, &needed);
  if (status == LILY_OK) status = backend.allocate(device, std::max<size_t>(needed, 1), &held.workspace);
  if (status == LILY_OK) status = backend.allocate(device, bytes, &held.block);
  if (status == LILY_OK) status = backend.allocate_pinned(device, bytes, &held.host);
  if (status == LILY_OK) status = backend.event_create(device, 0, &held.event);
  if (status != LILY_OK) return Failure(backend, status);
  auto *const block = static_cast<char *>(held.block), *const host = static_cast<char *>(held.host);
  memset(host, 0, bytes);
  fill_inputs(engine, host);
  status = backend.copy(device, block, host, bytes, 0);
  if (status == LILY_OK) status = run(backend, engine, problem, block, held.workspace, needed);
  if (status == LILY_OK) status = backend.copy(device, host, block, bytes, 0);
  // Also after a failure: the work that was enqueued uses the memory.
  const Failure failure(backend, status);
  lily_status waited = backend.event_record(device, held.event, 0);
  if (waited == LILY_OK) waited = backend.event_synchronize(device, held.event);
  if (failure.status != LILY_OK) return failure;
  if (waited == LILY_OK) memcpy(result, host, bytes);
  return Failure(backend, waited);
}

// The first result that differs too much, as text; "" if none does.
std::string difference(const Engine &engine, const char *found, const char *expected) {
  for (int array = kInputs; array < kArrays; ++array) {
    const int32_t dtype = dtype_of(engine, array);
    const auto number = [&](const char *block, int64_t i) {
      return load(block + offset_of(engine, array) + static_cast<size_t>(i * dtype_bytes(dtype)), dtype);
    };
    float largest = 0;
    for (int64_t i = 0; i < count_of(engine, array); ++i) largest = std::max(largest, fabsf(number(expected, i)));
    for (int64_t i = 0; i < count_of(engine, array); ++i) {
      const float got = number(found, i), reference = number(expected, i);
      // Also false for NaN.
      if (fabsf(got - reference) <= engine.tolerance * largest) continue;
      return std::string(array_of(engine, array).name) + "[" + std::to_string(i) + "] of the " + engine.name +
             " engine at rank " + std::to_string(engine.rank) + " is " + std::to_string(got) +
             ", and the CPU computes " + std::to_string(reference);
    }
  }
  return "";
}

struct Verdict {
  std::mutex mutex;
  bool is_known = false;
  std::string failure;
};

// Never destroyed: a worker can end late.
Verdict &verdict_of(int32_t device) {
  static auto *const verdicts = new Verdict[LILY_MAX_DEVICES];
  return verdicts[device];
}

bool is_enabled() { return read_switch(getenv("LILY_SELF_TEST")) != Switch::kOff; }

// Describes what is wrong with an engine's results; "" if nothing is. Throws if the test cannot run.
std::string test(Napi::Env env, const lily_backend &backend, int32_t device, const Engine &engine) {
  const std::unique_ptr<char[]> found(new char[block_bytes(engine)]), expected(new char[block_bytes(engine)]);
  const Failure failure = run_on(backend, engine, device, found.get());
  // Calls of this engine report what the device lacks.
  if (failure.status == LILY_ERROR_UNSUPPORTED) return "";
  if (failure.status != LILY_OK) throw failure.error(env);
  const Failure on_cpu = run_on(*lily_cpu_backend(), engine, 0, expected.get());
  if (on_cpu.status != LILY_OK) throw on_cpu.error(env);
  return difference(engine, found.get(), expected.get());
}

// Whether CUDA compiles the kernels of float16 when they are first used (scripts/cuda-targets.js). Programs that do not
// use them need not wait for it.
bool compiles_float16(const lily_backend &backend, int32_t device) {
  lily_device_info info;
  return backend.device_info(device, &info) == LILY_OK && atoi(info.detail) >= 10;
}

std::string test(Napi::Env env, const lily_backend &backend, int32_t device) {
  const bool tests_float16 = !compiles_float16(backend, device);
  for (const Engine &engine : kEngines) {
    if (engine.dtype == LILY_FLOAT16 && !tests_float16) continue;
    std::string wrong = test(env, backend, device, engine);
    if (!wrong.empty() && backend.device_fall_back(device) == LILY_OK) wrong = test(env, backend, device, engine);
    if (wrong.empty()) continue;
    return "cuda:" + std::to_string(device) + " is disabled, because its self-test found a wrong result: " + wrong +
           "; please report this with the output of npx lily-kernels doctor --json";
  }
  return "";
}

}  // namespace

void check_self_test(Napi::Env env, const lily_backend &backend, int32_t device) {
  Verdict &verdict = verdict_of(device);
  const std::lock_guard<std::mutex> lock(verdict.mutex);
  if (!verdict.is_known) {
    if (is_enabled()) verdict.failure = test(env, backend, device);
    verdict.is_known = true;
  }
  if (!verdict.failure.empty()) throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", verdict.failure);
}

std::string self_test_failure(int32_t device) {
  Verdict &verdict = verdict_of(device);
  const std::lock_guard<std::mutex> lock(verdict.mutex);
  return verdict.failure;
}

}  // namespace lily::napi
