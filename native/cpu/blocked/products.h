// The table of the blocked passes of one engine.
#pragma once

#include "cpu/blocked/backward.h"
#include "cpu/blocked/forward.h"
#include "cpu/blocked/linear.h"

namespace lily::cpu {
namespace blocked {
namespace {

constexpr LargeProducts kProducts = {
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
    .add_d_partials = nullptr,
    .pack_d_hidden = pack_d_hidden,
    .dx_pass = dx_pass,
    .x_pass = da_pass,
    .add_da_partials = nullptr,
};

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
