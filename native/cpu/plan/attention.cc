// The tasks of attention.
#include <algorithm>

#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// The most queries of a task: each task packs the keys and the values for its own.
constexpr int64_t kMostQueries = 192;

template <typename Pass>
void take_scratch(Plan<Pass> &plan, int64_t floats) {
  Workspace workspace(plan.pass.call->workspace);
  plan.scratch_floats = round_up(floats, Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
}

}  // namespace

Plan<AttentionPass> plan_attention(const lily_cpu_attention &call, const Kernels &kernels) {
  const lily_cpu_attention_problem &problem = call.problem;
  const AttentionProducts &products = *kernels.attention_products;
  Plan<AttentionPass> plan = {};
  plan.pass.call = &call;
  plan.pass.queries =
      partition(std::max<int64_t>(problem.tokens, 1), divide_up(problem.tokens, kMostQueries), products.tile_rows);
  take_scratch(plan, products.scratch(plan.pass));
  if (problem.tokens > 0) plan.steps.add(problem.batch * problem.heads * plan.pass.queries.count, products.forward);
  return plan;
}

Plan<AttentionBackwardPass> plan_attention(const lily_cpu_attention_backward &call, const Kernels &kernels) {
  const AttentionProducts &products = *kernels.attention_products;
  Plan<AttentionBackwardPass> plan = {};
  plan.pass.call = &call;
  take_scratch(plan, products.backward_scratch(plan.pass));
  const lily_cpu_attention_problem &problem = call.problem;
  if (problem.tokens > 0 || problem.keys > 0) plan.steps.add(problem.batch * problem.heads, products.backward);
  return plan;
}

}  // namespace lily::cpu
