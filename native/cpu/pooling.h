// Pooling between two passes: the G x E weights in forward, and their gradient in backward. Each is one task, in
// double.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

// Computes w_g from pool_sums: the mean of p_t over the kept tokens, or the softmax of the summed logits. A group
// without kept tokens has w = 0. With uniform routing w = 1 / E; of a learned mixture it is the softmax of its logits.
void pool_weights(const ForwardPass &pass, int64_t task, float *scratch);

// Computes d_pooled from d_weights.partials: dp of a kept token, dw_ge / n_g, with pool `probabilities`; dl of a kept
// token, w_ge (dw_ge - <w_g, dw_g>), with pool `logits`. The gradient of the logits of a learned mixture also has the
// latter formula; the gradient of given weights is dw_ge.
void compute_d_pooled(const BackwardPass &pass, int64_t task, float *scratch);

}  // namespace lily::cpu
