// Checks that no task of the CPU backend writes beyond its scratch: runs a forward and a backward call, and a frozen layer,
// matrix products and attention of the same sizes, with workers that take turns on one thread, and looks at the scratch of a
// worker's neighbours after each of its tasks. The test links it with the objects of the addon, except for the thread pool.
//
//   scratch THREADS TOKENS GROUPS D_IN D_OUT RANK EXPERTS ROUTING DTYPE DROPOUT     the last three: numbers of the ABI
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "core/problem.h"
#include "cpu/plan/plan.h"
#include "cpu/processor.h"
#include "cpu/thread_pool.h"
#include "lily/cpu.h"

namespace {

// No task writes it: a NaN with this payload.
constexpr uint32_t kUntouched = 0x7fc5a5a5;

int threads = 1;
uint32_t *scratch = nullptr;  // that of the workers, and as much memory of nobody as one has
int64_t scratch_floats = 0;
int passes = 0;

uint32_t *scratch_of(int64_t worker) { return scratch + worker * scratch_floats; }

void check_untouched(int64_t worker, int64_t neighbour, int64_t task) {
  const int64_t untouched = std::count(scratch_of(neighbour), scratch_of(neighbour + 1), kUntouched);
  if (untouched == scratch_floats) return;
  printf("pass %d, task %lld: worker %lld has written %lld floats of the scratch of worker %lld\n", passes,
         static_cast<long long>(task), static_cast<long long>(worker),
         static_cast<long long>(scratch_floats - untouched), static_cast<long long>(neighbour));
  exit(1);
}

}  // namespace

namespace lily::cpu {

int thread_count() { return threads; }
SerialScope::SerialScope(bool) {}
SerialScope::~SerialScope() = default;

void parallel_for(int64_t count, Task task, const void *context) {
  std::fill(scratch_of(0), scratch_of(threads + 1), kUntouched);
  for (int64_t index = 0; index < count; ++index) {
    const int64_t worker = index % threads;
    task(context, index, worker);
    if (worker > 0) check_untouched(worker, worker - 1, index);
    check_untouched(worker, worker + 1, index);
    std::fill(scratch_of(worker), scratch_of(worker + 1), kUntouched);
  }
  ++passes;
}

}  // namespace lily::cpu

namespace {

using namespace lily::cpu;

// Zeros, enough for any type.
float *array(int64_t count) { return static_cast<float *>(calloc(static_cast<size_t>(count) + 16, sizeof(float))); }
lily_matrix matrix(int64_t rows, int64_t columns, int32_t dtype) { return {array(rows * columns), columns, dtype, 1}; }

template <typename Call, typename Plan>
void run(Call call, const Kernels &kernels, Plan (*plan_of)(const Call &, const Kernels &),
         lily_status (*backend_call)(const Call *)) {
  const Plan sizes = plan_of(call, kernels);
  scratch_floats = sizes.scratch_floats;
  call.workspace_bytes = sizes.workspace_bytes;
  const size_t beyond = static_cast<size_t>(scratch_floats) * sizeof(float);
  call.workspace = aligned_alloc(64, (sizes.workspace_bytes + beyond + 63) / 64 * 64);
  scratch = reinterpret_cast<uint32_t *>(plan_of(call, kernels).scratch);
  if (backend_call(&call) != LILY_OK) {
    printf("%s\n", lily_cpu_backend()->last_error());
    exit(1);
  }
  free(call.workspace);
}

void run_linear(const lily_problem &problem, int32_t transposed) {
  lily_linear call = {};
  call.problem.tokens = problem.tokens;
  call.problem.d_in = problem.d_in;
  call.problem.d_out = problem.d_out;
  call.problem.transposed = transposed;
  call.problem.activation_dtype = call.problem.parameter_dtype = problem.activation_dtype;
  const int64_t depth = transposed ? problem.d_out : problem.d_in, columns = transposed ? problem.d_in : problem.d_out;
  call.x = matrix(problem.tokens, depth, problem.activation_dtype);
  call.weight = matrix(problem.d_out, problem.d_in, problem.activation_dtype);
  call.y = matrix(problem.tokens, columns, problem.activation_dtype);
  run(call, instruction_set().kernels_for(call.problem), plan_linear, lily_cpu_backend()->linear);
}

void run_matmul(const lily_problem &problem, int32_t transpose_a) {
  constexpr int64_t kCount = 2;
  lily_matmul call = {};
  call.problem = {1, kCount, problem.tokens, problem.d_in, problem.d_out, transpose_a, 1, 0, problem.activation_dtype};
  const int64_t a_rows = transpose_a != 0 ? problem.d_in : problem.tokens;
  const int64_t a_columns = transpose_a != 0 ? problem.tokens : problem.d_in;
  call.a = matrix(kCount * a_rows, a_columns, problem.activation_dtype);
  call.a_strides[1] = a_rows * a_columns;
  call.b = matrix(problem.d_out, problem.d_in, problem.activation_dtype);
  call.y = matrix(kCount * problem.tokens, problem.d_out, problem.activation_dtype);
  run(call, instruction_set().kernels_for(linear_problem(call.problem)), plan_matmul, lily_cpu_matmul);
}

// d_in keys, and two heads of `rank` columns.
void run_attention(const lily_problem &problem) {
  lily_cpu_attention call = {};
  call.problem = {.batch = 1,
                  .tokens = problem.tokens,
                  .keys = problem.d_in,
                  .heads = 2,
                  .d_head = problem.rank,
                  .scale = 1.0f,
                  .causal = problem.routing == LILY_ROUTING_SEQUENCE ? 1 : 0};
  const int64_t columns = 2 * problem.rank;
  call.q = matrix(problem.tokens, columns, LILY_FLOAT32);
  call.k = matrix(problem.d_in, columns, LILY_FLOAT32);
  call.v = matrix(problem.d_in, columns, LILY_FLOAT32);
  call.y = matrix(problem.tokens, columns, LILY_FLOAT32);
  call.statistics = array(4 * problem.tokens);
  lily_cpu_attention_backward backward = {};
  backward.problem = call.problem;
  backward.dy = call.y;
  backward.q = call.q;
  backward.k = call.k;
  backward.v = call.v;
  backward.y = call.y;
  backward.statistics = call.statistics;
  backward.dq = matrix(problem.tokens, columns, LILY_FLOAT32);
  backward.dk = matrix(problem.d_in, columns, LILY_FLOAT32);
  backward.dv = matrix(problem.d_in, columns, LILY_FLOAT32);
  const Kernels &kernels = *instruction_set().kernels;
  run<lily_cpu_attention, Plan<AttentionPass>>(call, kernels, plan_attention, lily_cpu_attention_forward);
  run<lily_cpu_attention_backward, Plan<AttentionBackwardPass>>(backward, kernels, plan_attention,
                                                                 lily_cpu_attention_backward_run);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 11) return 2;
  int64_t numbers[11] = {};
  for (int i = 1; i < argc; ++i) numbers[i] = atoll(argv[i]);
  threads = static_cast<int>(numbers[1]);
  lily_problem problem = {};
  problem.tokens = numbers[2];
  problem.groups = numbers[3];
  problem.d_in = numbers[4];
  problem.d_out = numbers[5];
  problem.rank = numbers[6];
  problem.experts = numbers[7];
  problem.routing = static_cast<int32_t>(numbers[8]);
  problem.activation_dtype = problem.parameter_dtype = static_cast<int32_t>(numbers[9]);
  problem.scaling = 1.0f;
  problem.dropout = static_cast<uint32_t>(numbers[10]);
  const int32_t dtype = problem.activation_dtype;
  const int64_t tokens = problem.tokens, stacked = problem.experts * problem.rank;
  const bool transposed = problem.routing == LILY_ROUTING_NONE;
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= problem.groups; ++i) offsets.push_back(static_cast<int32_t>(tokens * i / problem.groups));

  lily_forward forward = {};
  forward.problem = problem;
  if (problem.groups > 1) forward.tokens.sequence_offsets = offsets.data();
  static const uint32_t draw[4] = {1};
  if (problem.dropout != 0) forward.tokens.draw = draw;
  forward.x = matrix(tokens, problem.d_in, dtype);
  forward.a = matrix(problem.rank, problem.d_in, dtype);
  forward.b = transposed ? matrix(problem.d_out, problem.rank, dtype) : matrix(stacked, problem.d_out, dtype);
  forward.y = matrix(tokens, problem.d_out, dtype);
  forward.hidden = array(tokens * problem.rank);
  const int64_t router_columns = lily::router_columns(problem);
  if (router_columns > 0) forward.router = matrix(problem.experts, router_columns, dtype);
  if (lily::keeps_probabilities(problem)) forward.probabilities = array(tokens * problem.experts);
  if (lily::has_weights(problem)) forward.weights = array(problem.groups * problem.experts);

  lily_backward backward = {};
  backward.problem = problem;
  backward.tokens = forward.tokens;
  backward.dy = matrix(tokens, problem.d_out, dtype);
  backward.x = forward.x;
  backward.a = forward.a;
  backward.router = forward.router;
  backward.b = forward.b;
  backward.hidden = forward.hidden;
  backward.probabilities = forward.probabilities;
  backward.weights = forward.weights;
  backward.dx = matrix(tokens, problem.d_in, dtype);
  backward.da = matrix(problem.rank, problem.d_in, dtype);
  if (router_columns > 0) backward.d_router = matrix(problem.experts, router_columns, dtype);
  if (problem.routing == LILY_ROUTING_FIXED) {
    backward.d_weights = matrix(problem.groups, problem.experts, LILY_FLOAT32);
  }
  backward.db = transposed ? matrix(problem.d_out, problem.rank, dtype) : matrix(stacked, problem.d_out, dtype);

  const Kernels &kernels = instruction_set().kernels_for(problem);
  run(forward, kernels, plan_forward, lily_cpu_backend()->forward);
  run(backward, kernels, plan_backward, lily_cpu_backend()->backward);
  run_linear(problem, 0);
  run_linear(problem, 1);
  run_matmul(problem, 0);
  run_matmul(problem, 1);
  if (dtype == LILY_FLOAT32) run_attention(problem);
  printf("%d passes\n", passes);
}
