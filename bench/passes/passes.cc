// Times each pass of a forward and a backward call of the CPU backend in float32. main.ts builds it from the objects of
// the addon, except for the thread pool, whose parallel_for is replaced by the one below.
//
//   passes M d r E [rounds] [lora | sequence]
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "cpu/thread_pool.h"
#include "lily/cpu.h"
#include "random.h"
#include "tile_rate.h"

namespace lily::cpu {
void parallel_for_of_pool(int64_t count, Task task, const void *context);

struct TimedPass {
  int64_t tasks;
  double seconds;
};
std::vector<TimedPass> timed_passes;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void parallel_for(int64_t count, Task task, const void *context) {
  const double begin = now();
  parallel_for_of_pool(count, task, context);
  timed_passes.push_back({count, now() - begin});
}
}  // namespace lily::cpu

namespace {

using lily::cpu::timed_passes;

float *random_floats(int64_t count, float scale) {
  auto *const values = static_cast<float *>(aligned_alloc(64, (static_cast<size_t>(count) * 4 + 63) / 64 * 64));
  fill_random(values, count, scale);
  return values;
}

lily_matrix random_matrix(int64_t rows, int64_t columns, float scale, bool accumulate) {
  return {random_floats(rows * columns, scale), columns, LILY_FLOAT32, accumulate ? 1 : 0};
}

void require(lily_status status, const lily_backend &backend) {
  if (status == LILY_OK) return;
  fprintf(stderr, "%s\n", backend.last_error());
  exit(1);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Calls {
  lily_forward forward;
  lily_backward backward;
};

// The operands and workspaces of a forward and a backward call. `offsets`: of the sequences; null: one group.
Calls make_calls(const lily_problem &problem, const int32_t *offsets, const lily_backend &backend) {
  const bool lora = problem.routing == LILY_ROUTING_NONE;
  const int64_t tokens = problem.tokens, d = problem.d_in, rank = problem.rank, experts = problem.experts;
  lily_forward forward = {};
  forward.problem = problem;
  forward.tokens.sequence_offsets = offsets;
  forward.x = random_matrix(tokens, d, 1.0f, false);
  forward.a = random_matrix(rank, d, 0.05f, false);
  forward.b = lora ? random_matrix(d, rank, 0.05f, false) : random_matrix(experts * rank, d, 0.05f, false);
  forward.y = random_matrix(tokens, d, 1.0f, true);
  forward.hidden = random_floats(tokens * rank, 0.0f);
  if (!lora) {
    forward.router = random_matrix(experts, rank, 0.05f, false);
    forward.probabilities = random_floats(tokens * experts, 0.0f);
    forward.weights = random_floats(problem.groups * experts, 0.0f);
  }
  lily_backward backward = {};
  backward.problem = problem;
  backward.tokens = forward.tokens;
  backward.x = forward.x;
  backward.a = forward.a;
  backward.b = forward.b;
  backward.router = forward.router;
  backward.hidden = forward.hidden;
  backward.probabilities = forward.probabilities;
  backward.weights = forward.weights;
  backward.dy = random_matrix(tokens, d, 1.0f, false);
  backward.dx = random_matrix(tokens, d, 1.0f, true);
  backward.da = random_matrix(rank, d, 1.0f, true);
  backward.db = lora ? random_matrix(d, rank, 1.0f, true) : random_matrix(experts * rank, d, 1.0f, true);
  if (!lora) backward.d_router = random_matrix(experts, rank, 1.0f, true);
  require(backend.forward_workspace(&problem, &forward.workspace_bytes), backend);
  require(backend.backward_workspace(&problem, &backward.workspace_bytes), backend);
  forward.workspace = aligned_alloc(64, (forward.workspace_bytes + 63) / 64 * 64);
  backward.workspace = aligned_alloc(64, (backward.workspace_bytes + 63) / 64 * 64);
  return {forward, backward};
}

// For each pass its tasks, and seconds in each round.
struct Timings {
  std::vector<double> tile_rates;
  std::vector<std::vector<double>> seconds;
  std::vector<int64_t> tasks;
  size_t forward_passes = 0;
};

Timings measure(const Calls &calls, int rounds, const lily_backend &backend) {
  Timings timings;
  for (int round = -2; round < rounds; ++round) {
    timed_passes.clear();
    require(backend.forward(&calls.forward), backend);
    timings.forward_passes = timed_passes.size();
    require(backend.backward(&calls.backward), backend);
    // Beside every round, because clocks and neighbours of a virtual machine change within seconds.
    timings.tile_rates.push_back(lily::cpu::measure_tile_rate(lily::cpu::thread_count()));
    timings.seconds.resize(timed_passes.size());
    timings.tasks.resize(timed_passes.size());
    for (size_t i = 0; round >= 0 && i < timed_passes.size(); ++i) {
      timings.seconds[i].push_back(timed_passes[i].seconds);
      timings.tasks[i] = timed_passes[i].tasks;
    }
  }
  return timings;
}

void print(const lily_problem &problem, const Timings &timings) {
  const double product = 2.0 * static_cast<double>(problem.tokens * problem.d_in * problem.rank);
  const double rate = median(timings.tile_rates);
  printf("%lld, %lld, %lld, %lld: register tile with rhs in L2 %.0f GFLOP/s, one product %.3f ms\n",
         static_cast<long long>(problem.tokens), static_cast<long long>(problem.d_in),
         static_cast<long long>(problem.rank), static_cast<long long>(problem.experts), rate * 1e-9,
         product / rate * 1e3);
  for (size_t i = 0; i < timings.seconds.size(); ++i) {
    const double time = median(timings.seconds[i]);
    printf("%-8s pass %2zu, %4lld tasks: %8.3f ms, one product would be %3.0f %% of the tile\n",
           i < timings.forward_passes ? "forward" : "backward", i, static_cast<long long>(timings.tasks[i]),
           time * 1e3, 100.0 * product / time / rate);
  }
}

}  // namespace

int main(int argc, char **argv) {
  const bool lora = argc > 6 && strcmp(argv[6], "lora") == 0;
  const bool sequence = argc > 6 && strcmp(argv[6], "sequence") == 0;
  if (argc < 5 || (argc > 6 && !lora && !sequence)) {
    fprintf(stderr, "passes M d r E [rounds] [lora | sequence]\n");
    return 1;
  }
  lily_problem problem = {};
  problem.tokens = atoll(argv[1]);
  problem.d_in = problem.d_out = atoll(argv[2]);
  problem.rank = atoll(argv[3]);
  problem.experts = lora ? 1 : atoll(argv[4]);
  problem.groups = sequence ? 4 : 1;
  problem.scaling = 1.0f;
  problem.activation_dtype = problem.parameter_dtype = LILY_FLOAT32;
  problem.routing = lora ? LILY_ROUTING_NONE : sequence ? LILY_ROUTING_SEQUENCE : LILY_ROUTING_BATCH;
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= problem.groups; ++i) {
    offsets.push_back(static_cast<int32_t>(problem.tokens * i / problem.groups));
  }
  const int rounds = argc > 5 ? atoi(argv[5]) : 15;

  const lily_backend &backend = *lily_cpu_backend();
  const Calls calls = make_calls(problem, sequence ? offsets.data() : nullptr, backend);
  print(problem, measure(calls, rounds, backend));
}
