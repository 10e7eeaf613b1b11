// The tasks of batched matrix products.
#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/products.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {

lily_linear_problem linear_problem(const lily_matmul_problem &problem) {
  const bool is_weight = problem.transpose_b != 0;  // [n, k]; otherwise the weight of dx
  return {
      .tokens = problem.m,
      .d_in = is_weight ? problem.k : problem.n,
      .d_out = is_weight ? problem.n : problem.k,
      .transposed = is_weight ? 0 : 1,
      .precision = problem.precision,
      .activation_dtype = problem.dtype,
      .parameter_dtype = problem.dtype,
      .device = 0,
      .unaligned = 0,
  };
}

MatmulPlan plan_matmul(const lily_matmul &call, const Kernels &kernels) {
  const lily_matmul_problem &problem = call.problem;
  const LinearProducts &products = *kernels.linear_products;
  const int64_t batches = problem.outer * problem.inner;
  MatmulPlan plan = {};
  MatmulPass &pass = plan.pass;
  pass.call = &call;
  pass.product.problem = linear_problem(problem);
  pass.product.bias = call.bias;
  pass.linear = linear_pass(pass.product, *products.blocking);
  pass.linear.transposes_in = problem.transpose_a != 0;
  // The direct products read rows of op(a), and start their sums with the first k.
  const bool has_rows = !pass.linear.transposes_in && problem.k > 0;
  const bool is_direct = products.direct != nullptr && problem.m <= kDirectLinearTokens && has_rows;
  if (batches == 0 || problem.m == 0 || problem.n == 0) return plan;
  if (is_direct) {
    plan_direct_linear_tiles(batches, pass.linear);
  } else {
    plan_linear_tiles(*products.blocking, batches, pass.linear);
  }
  Workspace workspace(call.workspace);
  const auto scratch = is_direct ? products.direct_scratch : products.scratch;
  plan.scratch_floats = round_up(scratch(pass.linear), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  plan.steps.add(batches * pass.product_tasks(), is_direct ? products.matmul_direct : products.matmul);
  return plan;
}

}  // namespace lily::cpu
