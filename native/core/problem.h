// What every backend must know of a problem before it plans anything: is it legal, and how large are its operands.
#pragma once

#include "lily/backend.h"

namespace lily {

constexpr int64_t kMaxRank = 4096;
constexpr int64_t kMaxExperts = 64;

// nullptr, or what is wrong with the problem.
const char *problem_error(const lily_problem &problem);

// Sequences may be ragged in these routings; in all others there is one group of all tokens.
bool may_have_groups(const lily_problem &problem);

// A router's softmax takes part in these.
bool has_router(const lily_problem &problem);

// Backward needs the probabilities of each token: token routing, and pooled probabilities.
bool keeps_probabilities(const lily_problem &problem);

// One weight per group and expert mixes the HPs: all routings of Lily but `token`.
bool has_weights(const lily_problem &problem);

// Number of r x d_out matrices in a deferred gradient of b: one D_g per group, or one per expert where there are more
// groups than experts.
int64_t deferred_partials(const lily_problem &problem);

// Whether a deferred gradient has one matrix per expert, already weighted: sum_g w_ge D_g.
bool deferred_is_weighted(const lily_problem &problem);

int64_t dtype_bytes(int32_t dtype);

// Of saved.hidden: the activations' type; float32 where parameters are float32 and precision `high` rounds nothing that
// a gradient of theirs is made of.
int32_t hidden_dtype(const lily_problem &problem);

}  // namespace lily
