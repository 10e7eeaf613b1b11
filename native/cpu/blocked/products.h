// The table of the blocked passes of one engine.
#pragma once

#include "cpu/backward_hidden.h"
#include "cpu/blocked/backward.h"
#include "cpu/blocked/forward.h"
#include "cpu/blocked/linear.h"
#include "cpu/blocked/matmul.h"

namespace lily::cpu {
namespace blocked {
namespace {

void compute_and_pack_d_hidden(const BackwardPass &pass, int64_t tile, float *scratch) {
  compute_d_hidden(pass, tile, scratch);
  pack_d_hidden(pass, tile, scratch);
}

constexpr BlockedProducts kProducts = {
    .blocking = &Engine::kBlocking,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .pack_shrink = pack_shrink,
    .shrink = shrink,
    .expand = expand,
    .pack_lhs = pack_lhs,
    .pack_c = pack_c,
    .q_pass = q_pass,
    .dy_pass = dy_pass,
    .compute_and_pack_d_hidden = compute_and_pack_d_hidden,
    .pack_d_hidden = pack_d_hidden,
    .dx_pass = dx_pass,
    .da_pass = da_pass,
};

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
