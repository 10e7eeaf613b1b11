#include "cpu/plan/call.h"

#include <algorithm>

#include "core/problem.h"
#include "cpu/plan/cuts.h"

namespace lily::cpu {
namespace {

// The weight of the single expert of LoRA and of token routing, and the weights of the single, empty group of a call
// without sequences.
constexpr float kOne = 1.0f;
const float kZeros[kMaxExperts] = {};

}  // namespace

Groups groups_of(const lily_problem &problem, const lily_tokens &tokens, int64_t step_tokens, Workspace &workspace) {
  Groups groups = {};
  // Without sequences there are no tokens. One empty group makes the passes run, which sets overwritten gradients to
  // zero.
  groups.count = std::max<int64_t>(problem.groups, 1);
  groups.tokens = problem.tokens;
  groups.step_tokens = step_tokens;
  if (problem.groups == 0 || !may_have_groups(problem)) return groups;
  int32_t *const first_tiles = workspace.take<int32_t>(problem.groups + 1);
  int32_t *const first_steps = workspace.take<int32_t>(problem.groups + 1);
  if (tokens.sequence_offsets == nullptr || first_tiles == nullptr) return groups;
  groups.offsets = tokens.sequence_offsets;
  groups.first_tiles = first_tiles;
  groups.first_steps = first_steps;
  first_tiles[0] = first_steps[0] = 0;
  for (int64_t group = 0; group < problem.groups; ++group) {
    const int64_t length = groups.end(group) - groups.begin(group);
    first_tiles[group + 1] = first_tiles[group] + static_cast<int32_t>(divide_up(length, kTokenTile));
    first_steps[group + 1] = first_steps[group] + static_cast<int32_t>(divide_up(length, step_tokens));
  }
  return groups;
}

ExpertStack stack_of(const lily_problem &problem, const lily_matrix &b, const float *weights) {
  ExpertStack stack = {
      .b = b,
      .experts = problem.experts,
      .rank = problem.rank,
      .transposed = false,
      .scaling = problem.scaling,
      .weights = problem.groups == 0 ? kZeros : weights,
  };
  if (problem.routing == LILY_ROUTING_TOKEN) {
    stack.experts = 1;
    stack.rank = problem.experts * problem.rank;
    stack.weights = &kOne;
  } else if (problem.routing == LILY_ROUTING_NONE) {
    stack.transposed = true;
    stack.weights = &kOne;
  }
  return stack;
}

lily_matrix take_matrix(Workspace &workspace, int64_t rows, int64_t columns, int32_t dtype) {
  return {workspace.take<char>(rows * columns * dtype_bytes(dtype)), columns, dtype, 0};
}

}  // namespace lily::cpu
