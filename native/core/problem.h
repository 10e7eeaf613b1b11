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

// Slabs of r x d_out in a deferred gradient of b: one per group, or one per expert where that is fewer (math: D_g is
// kept for as long as it is smaller than what it folds into).
int64_t deferred_slabs(const lily_problem &problem);

// The slabs of a deferred gradient are one per expert, already weighted.
bool deferred_is_weighted(const lily_problem &problem);

int64_t dtype_bytes(int32_t dtype);

// Of saved.hidden: the activations' type; float32 where parameters are float32 and precision `high` rounds nothing that
// a gradient of theirs is made of.
int32_t hidden_dtype(const lily_problem &problem);

}  // namespace lily
