// Prints the plan of the passes of the register tile, for 1 to 64 threads, as JSON: one line per number of threads.
// Nothing is computed. The passes in blocks do not share sums over tokens yet, so they are left out.
//
//   plan LANES:PANEL TOKENS GROUPS D_IN D_OUT RANK EXPERTS ROUTING DTYPE     ROUTING, DTYPE: numbers of the ABI
//
// Several problems, each with all of its numbers, are calls over disjoint rows: the tasks of their steps, alone and in
// rounds, are printed instead.
#include "cpu/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/plan/rows.h"
#include "cpu/thread_pool.h"

namespace {
int threads = 1;
}

namespace lily::cpu {
int thread_count() { return threads; }
bool multiplies_in_blocks() { return false; }
uint64_t l2_cache_bytes() { return 0; }
}  // namespace lily::cpu

namespace {

using namespace lily::cpu;

struct Memory {
  explicit Memory(size_t bytes) : data(aligned_alloc(64, (bytes + 63) / 64 * 64)) {}
  ~Memory() { free(data); }
  void *data;
};

int64_t sum_bytes(const void *array, int64_t count, int64_t floats) {
  return array == nullptr ? 0 : count * floats * static_cast<int64_t>(sizeof(float));
}

void print(const char *name, int64_t value, const char *end = ", ") {
  printf("\"%s\": %lld%s", name, static_cast<long long>(value), end);
}

void print_plan(const Kernels &kernels, const lily_problem &problem, const int32_t *offsets) {
  static float anything[1];
  lily_forward forward = {};
  forward.problem = problem;
  forward.tokens.sequence_offsets = offsets;
  const Memory forward_memory(plan_forward(forward, kernels).workspace_bytes);
  forward.workspace = forward_memory.data;
  const ForwardPlan forward_plan = plan_forward(forward, kernels);
  const ForwardPass &f = forward_plan.pass;

  lily_backward backward = {};
  backward.problem = problem;
  backward.tokens.sequence_offsets = offsets;
  const Memory backward_memory(plan_backward(backward, kernels).workspace_bytes);
  backward.workspace = backward_memory.data;
  backward.dx.data = backward.da.data = backward.db.data = backward.d_router.data = anything;
  const BackwardPlan backward_plan = plan_backward(backward, kernels);
  const BackwardPass &b = backward_plan.pass;

  printf("{");
  print("threads", threads);
  print("forwardWorkspace", static_cast<int64_t>(forward_plan.workspace_bytes));
  print("backwardWorkspace", static_cast<int64_t>(backward_plan.workspace_bytes));
  printf("\"tasks\": {");
  print("shrink", f.hidden_partials.count * f.shrink.rank_tiles.count * f.shrink.token_tiles);
  print("route", f.groups.tile_count());
  print("expand", f.expand.columns.count * f.expand.token_tiles);
  print("dy", b.dy.tasks);
  print("hidden", b.groups.tile_count());
  print("x", b.x.tasks, "}, ");
  // What must not depend on the threads, because it affects the order of a sum.
  printf("\"sums\": {");
  print("shrinkSplit", f.shrink_splits.width);
  print("dySplit", b.dy.splits.width);
  print("dwParts", b.d_weights.count);
  print("dPieces", b.groups.piece_count());
  print("firstPiece", b.groups.pieces.length(b.groups.end(0) - b.groups.begin(0)));
  print("daPieces", b.x.pieces.count(problem.tokens), "}, ");
  printf("\"partialBytes\": {");
  print("hidden", sum_bytes(f.hidden_partials.data, f.hidden_partials.count, problem.tokens * f.hidden_partials.pitch));
  print("q", sum_bytes(b.q_partials.data, b.q_partials.count, problem.tokens * b.q_partials.pitch));
  print("d", sum_bytes(b.dy.d_partials, b.groups.piece_count(), b.dy.d_partial_floats));
  print("da", sum_bytes(b.x.da_partials, b.x.pieces.count(problem.tokens), b.x.da_partial_floats), "}}\n");
}

// ---- Calls over disjoint rows ----

std::vector<std::pair<const void *, int64_t>> ran;  // the call and the number of each task
template <typename Pass>
void record(const Pass &pass, int64_t task, float *) {
  ran.push_back({pass.call, task});
}

void print_counts(const char *name, const std::vector<int64_t> &counts, const char *end) {
  printf("\"%s\": [", name);
  for (size_t i = 0; i < counts.size(); ++i) printf("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(counts[i]));
  printf("]%s", end);
}

// The number of steps of each call alone, the tasks of these steps, added up over the calls, and the tasks of the
// rounds; and whether each round runs the tasks of one step of each call.
template <typename Pass, typename Call>
void print_rounds(const char *name, std::vector<Call> calls, const Kernels &kernels, const char *end) {
  const auto kernels_for = [&](const lily_problem &) -> const Kernels & { return kernels; };
  const auto plan = [&](void *memory) {
    return plan_rows<Pass>(calls.data(), static_cast<int64_t>(calls.size()), memory, kernels_for);
  };
  const size_t bytes = plan(nullptr).workspace_bytes;
  const Memory memory(bytes), alone_memory(bytes);
  const RowsPlan<Pass> rows = plan(memory.data);

  std::vector<int64_t> steps, tasks, rounds;
  std::vector<decltype(ran)> ran_alone;
  for (Call &call : calls) {
    lily::Workspace workspace(alone_memory.data);
    const Plan<Pass> alone = plan_call(call, kernels, workspace);
    size_t number = 0;
    for (const Step<Pass> *step = alone.steps.begin(); step != alone.steps.end(); ++number) {
      const Step<Pass> *const first = step;
      const int64_t count = alone.steps.skip_joined(step);
      if (number == tasks.size()) tasks.push_back(0), ran_alone.emplace_back();
      tasks[number] += count;
      ran.clear();
      for (int64_t task = 0; task < count; ++task) alone.run(first, task, 0);
      ran_alone[number].insert(ran_alone[number].end(), ran.begin(), ran.end());
    }
    steps.push_back(static_cast<int64_t>(number));
  }

  bool same = rows.workspace_bytes == bytes;
  while (const int64_t count = begin_round(rows)) {
    ran.clear();
    for (int64_t task = 0; task < count; ++task) run_task(rows, task, task % threads);
    same = same && rounds.size() < ran_alone.size() && ran == ran_alone[rounds.size()];
    rounds.push_back(count);
  }
  printf("\"%s\": {", name);
  print_counts("steps", steps, ", ");
  print_counts("tasks", tasks, ", ");
  print_counts("rounds", rounds, ", ");
  print("workspace", static_cast<int64_t>(bytes));
  printf("\"sameTasks\": %s}%s", same ? "true" : "false", end);
}

struct Problem {
  lily_problem problem;
  std::vector<int32_t> offsets;
};

void print_rows(const Kernels &kernels, const std::vector<Problem> &problems) {
  static float anything[64 * 64];  // enough for the weights, which a step between the passes reads
  static const int32_t listed[1] = {};
  std::vector<lily_forward> forwards;
  std::vector<lily_backward> backwards;
  for (const Problem &of : problems) {
    lily_forward forward = {};
    forward.problem = of.problem;
    if (of.problem.groups > 1) forward.tokens.sequence_offsets = of.offsets.data();
    if (forwards.size() % 2 == 1) forward.tokens.rows = listed;
    lily_backward backward = {};
    backward.problem = of.problem;
    backward.tokens = forward.tokens;
    backward.weights = anything;
    backward.dx.data = backward.da.data = backward.db.data = backward.d_router.data = anything;
    forwards.push_back(forward);
    backwards.push_back(backward);
  }
  printf("{");
  print("threads", threads);
  print_rounds<ForwardPass>("forward", forwards, kernels, ", ");
  print_rounds<BackwardPass>("backward", backwards, kernels, "}\n");
}

}  // namespace

int main(int count, char **arguments) {
  if (count < 10 || (count - 2) % 8 != 0) return 1;
  std::vector<Problem> problems;
  for (char **argument = arguments + 2; argument != arguments + count; argument += 8) {
    int64_t numbers[8];
    for (int i = 0; i < 8; ++i) numbers[i] = atoll(argument[i]);
    lily_problem problem = {};
    problem.tokens = numbers[0];
    problem.groups = numbers[1];
    problem.d_in = numbers[2];
    problem.d_out = numbers[3];
    problem.rank = numbers[4];
    problem.experts = numbers[5];
    problem.routing = static_cast<int32_t>(numbers[6]);
    problem.activation_dtype = problem.parameter_dtype = static_cast<int32_t>(numbers[7]);
    std::vector<int32_t> offsets;
    for (int64_t group = 0; group <= problem.groups; ++group) {
      offsets.push_back(static_cast<int32_t>(problem.tokens * group / problem.groups));
    }
    problems.push_back({problem, offsets});
  }

  Kernels kernels = {};
  kernels.tile_rows = 6;
  kernels.dtype = LILY_FLOAT32;
  kernels.depth = 1;
  kernels.gather_x = kernels.pack_router = kernels.route = record<ForwardPass>;
  kernels.gather_dy = kernels.gather_backward_x = kernels.compute_u = kernels.write_d_mixture =
      kernels.pack_router_rows = kernels.compute_d_hidden = kernels.compute_d_router = record<BackwardPass>;
  TileProducts products = {};
  products.forward_scratch = [](const ForwardPass &) { return int64_t{0}; };
  products.backward_scratch = [](const BackwardPass &) { return int64_t{0}; };
  products.shrink = products.expand = record<ForwardPass>;
  products.dy_pass = products.add_d_partials = products.x_pass = products.add_da_partials = record<BackwardPass>;
  DirectProducts direct_products = {};
  direct_products.forward_scratch = products.forward_scratch;
  direct_products.backward_scratch = products.backward_scratch;
  direct_products.shrink = direct_products.expand = record<ForwardPass>;
  direct_products.dy_pass = direct_products.x_pass = record<BackwardPass>;
  kernels.tile_products = &products;
  kernels.direct_products = &direct_products;
  char *rest;
  kernels.lanes = strtoll(arguments[1], &rest, 10);
  kernels.panel = atoll(rest + 1);

  for (threads = 1; threads <= 64; ++threads) {
    if (problems.size() > 1) {
      print_rows(kernels, problems);
    } else {
      const Problem &only = problems[0];
      print_plan(kernels, only.problem, only.problem.groups > 1 ? only.offsets.data() : nullptr);
    }
  }
}
