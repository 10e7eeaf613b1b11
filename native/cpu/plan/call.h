// What the plans of forward and backward read from the call alike: its groups, its B_e, and which products it takes.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/processor.h"

namespace lily::cpu {

// `step_tokens`: of a packed left operand.
Groups groups_of(const lily_problem &problem, const lily_tokens &tokens, int64_t step_tokens, Workspace &workspace);

ExpertStack stack_of(const lily_problem &problem, const lily_matrix &b, const float *weights);

// Calls `plan` with the products for a problem.
//
// With few tokens B is most of the traffic. The direct products and the register tile read it less often than
// products in blocks. Bits differ, so only batch routing, whose results depend on the whole batch anyway, may choose by
// the number of tokens.
template <typename Function>
auto with_products(const Kernels &kernels, const lily_problem &problem, Function plan) {
  constexpr int64_t kFewBatchTokens = 16;
  const bool batch = problem.routing == LILY_ROUTING_BATCH;
  const bool direct = batch && problem.tokens > 0 && problem.tokens <= kDirectTokens && problem.dropout == 0;
  if (direct) return plan(*kernels.direct_products);
  const bool small = problem.rank <= kSmallRank || (batch && problem.tokens <= kFewBatchTokens);
  const bool uses_tile = kernels.tile_products != nullptr && (small || !multiplies_in_blocks());
  return uses_tile ? plan(*kernels.tile_products) : plan(*kernels.blocked_products);
}

// A rows x columns matrix in the workspace.
lily_matrix take_matrix(Workspace &workspace, int64_t rows, int64_t columns, int32_t dtype);

}  // namespace lily::cpu
