// What the plans of forward and backward read from the call alike: its groups, its B_e, and which products it takes.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"

namespace lily::cpu {

// `step_tokens`: of a packed left operand.
Groups groups_of(const lily_problem &problem, const lily_tokens &tokens, int64_t step_tokens, Workspace &workspace);

ExpertStack stack_of(const lily_problem &problem, const lily_matrix &b, const float *weights);

const LargeProducts &products_for(const Kernels &kernels, const lily_problem &problem);

// A rows x columns matrix in the workspace.
lily_matrix take_matrix(Workspace &workspace, int64_t rows, int64_t columns, int32_t dtype);

}  // namespace lily::cpu
