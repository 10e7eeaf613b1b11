// The validity of a problem, and the sizes and types of its operands that follow from it. Shared by the binding and the
// backends.
#pragma once

#include "lily/backend.h"

namespace lily {

constexpr int64_t kMaxRank = 4096;
constexpr int64_t kMaxExperts = 64;
constexpr int64_t kMaxDimension = int64_t{1} << 40;  // of d_in and d_out: no product of such sizes overflows

constexpr uint32_t kDropoutSteps = 1 << 16;  // a random number of dropout is below it

// Returns nullptr if the problem is valid, otherwise a message that says what is wrong.
const char *problem_error(const lily_problem &problem);

// The weight may have 16 bits under float32 activations.
const char *problem_error(const lily_linear_problem &problem);

// The same for the sizes of b.
const char *stack_error(int64_t rank, int64_t experts, int64_t d_out);

// Whether the routing has one group per sequence: `sequence` and `fixed`. Sequences may have different lengths. All
// other routings have one group of all tokens.
bool may_have_groups(const lily_problem &problem);

// Whether the routing has a router, whose logits depend on the tokens: `batch`, `sequence` and `token`.
bool has_router(const lily_problem &problem);

// The columns of the operand `router`: rank; 1 for the logits of `learned`; 0 if there is no such operand.
int64_t router_columns(const lily_problem &problem);

// Whether backward needs the probabilities of each token: with token routing, and with pool `probabilities`.
bool keeps_probabilities(const lily_problem &problem);

// Whether there is one weight per group and expert: all routings of Lily except `token`.
bool has_weights(const lily_problem &problem);

// The number of r x d_out matrices (partials) in a deferred gradient of b: one D_g per group, or one per expert if
// deferred_is_weighted.
int64_t deferred_partials(const lily_problem &problem);

// Whether a deferred gradient has one weighted matrix per expert, sum_g w_ge D_g: with token routing, and if there are
// more groups than experts.
bool deferred_is_weighted(const lily_problem &problem);

// Bytes per element; 0 for an unknown dtype.
int64_t dtype_bytes(int32_t dtype);

// The type of `hidden`: the activations', but float32 for float32 parameters with precision `high`, because the
// gradients of the parameters depend on hidden and `high` rounds none of their inputs.
int32_t hidden_dtype(const lily_problem &problem);

}  // namespace lily
