// The few numbers between two passes: G x E weights forward, their gradient backward. Serial, in double.
#pragma once

#include "cpu/plan.h"

namespace lily::cpu {

// w_g from the blocks' sums: the mean of p over the kept tokens, or the softmax of the summed logits. A group with no
// kept token has w = 0. With uniform routing w = 1 / E.
void pool_weights(const ForwardPass &pass, float *weights);

// From the slabs' shares of dw: dw_ge / n_g for pool `probabilities`, dl of a kept token for pool `logits`.
void pool_gradient(const BackwardPass &pass);

}  // namespace lily::cpu
