// Prints the plan of the passes of the register tile, for 1 to 64 threads, as JSON: one line per number of threads.
// Nothing is computed. The passes in blocks do not share sums over tokens yet, so they are left out.
//
//   plan LANES:PANEL TOKENS GROUPS D_IN D_OUT RANK EXPERTS ROUTING DTYPE     ROUTING, DTYPE: numbers of the ABI
#include "cpu/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>

#include <vector>

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

}  // namespace

int main(int count, char **arguments) {
  if (count != 10) return 1;
  int64_t numbers[8];
  for (int i = 0; i < 8; ++i) numbers[i] = atoll(arguments[i + 2]);
  lily_problem problem = {};
  problem.tokens = numbers[0];
  problem.groups = numbers[1];
  problem.d_in = numbers[2];
  problem.d_out = numbers[3];
  problem.rank = numbers[4];
  problem.experts = numbers[5];
  problem.routing = static_cast<int32_t>(numbers[6]);
  problem.activation_dtype = problem.parameter_dtype = static_cast<int32_t>(numbers[7]);

  Kernels kernels = {};
  kernels.tile_rows = 6;
  kernels.dtype = LILY_FLOAT32;
  kernels.depth = 1;
  TileProducts products = {};
  products.forward_scratch = [](const ForwardPass &) { return int64_t{0}; };
  products.backward_scratch = [](const BackwardPass &) { return int64_t{0}; };
  kernels.tile_products = &products;
  char *rest;
  kernels.lanes = strtoll(arguments[1], &rest, 10);
  kernels.panel = atoll(rest + 1);

  std::vector<int32_t> offsets;
  for (int64_t group = 0; group <= problem.groups; ++group) {
    offsets.push_back(static_cast<int32_t>(problem.tokens * group / problem.groups));
  }
  for (threads = 1; threads <= 64; ++threads) {
    print_plan(kernels, problem, problem.groups > 1 ? offsets.data() : nullptr);
  }
}
