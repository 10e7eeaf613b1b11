// What the plans of forward and backward leave to the kind of their large products: the tasks of the passes, the arrays
// that only one kind needs, and the steps.
#pragma once

#include "core/workspace.h"
#include "cpu/plan/plan.h"

namespace lily::cpu {

// Tokens per step of the packed left operand of D.
inline int64_t step_tokens(const TileProducts &) { return 1; }
inline int64_t step_tokens(const BlockedProducts &products) { return products.blocking->step_depth; }
inline int64_t step_tokens(const DirectProducts &) { return 1; }

// Whether shrink reads listed rows of x; otherwise they are gathered before.
inline bool reads_listed_rows(const TileProducts &) { return true; }
inline bool reads_listed_rows(const BlockedProducts &) { return false; }
inline bool reads_listed_rows(const DirectProducts &) { return true; }

// A function named after a pass plans that pass.
void plan_shrink(const TileProducts &, const Kernels &, ForwardPass &, Workspace &);
void plan_shrink(const BlockedProducts &, const Kernels &, ForwardPass &, Workspace &);
void plan_shrink(const DirectProducts &, const Kernels &, ForwardPass &, Workspace &);

RowTiles expand_tiles(const TileProducts &, const Kernels &, const ForwardPass &);
RowTiles expand_tiles(const BlockedProducts &, const Kernels &, const ForwardPass &);
RowTiles expand_tiles(const DirectProducts &, const Kernels &, const ForwardPass &);

void plan_dy_pass(const TileProducts &, const Kernels &, BackwardPass &, Workspace &);
void plan_dy_pass(const BlockedProducts &, const Kernels &, BackwardPass &, Workspace &);
void plan_dy_pass(const DirectProducts &, const Kernels &, BackwardPass &, Workspace &);

// Also the products of backward that other passes compute unless they are blocked, and the order of the sum of dR.
void plan_x_pass(const TileProducts &, const Kernels &, BackwardPass &, Workspace &);
void plan_x_pass(const BlockedProducts &, const Kernels &, BackwardPass &, Workspace &);
void plan_x_pass(const DirectProducts &, const Kernels &, BackwardPass &, Workspace &);

// h before phi.
void add_shrink(const TileProducts &, ForwardPlan &);
void add_shrink(const BlockedProducts &, ForwardPlan &);
void add_shrink(const DirectProducts &, ForwardPlan &);

// What depends on dy: q, D, dw and dB.
void add_dy_pass(const TileProducts &, BackwardPlan &);
void add_dy_pass(const BlockedProducts &, BackwardPlan &);
void add_dy_pass(const DirectProducts &, BackwardPlan &);

// dh, and what depends on it: dx, dA and dR.
void add_d_hidden(const TileProducts &, const Kernels &, BackwardPlan &);
void add_d_hidden(const BlockedProducts &, const Kernels &, BackwardPlan &);
void add_d_hidden(const DirectProducts &, const Kernels &, BackwardPlan &);

// Whether dR, a sum over the tokens, is an output.
inline bool needs_d_router(const BackwardPass &pass) {
  return pass.call->d_router.data != nullptr && has_router(pass.call->problem);
}

inline void add_d_router(const Kernels &kernels, bool joins, BackwardPlan &plan) {
  if (!needs_d_router(plan.pass)) return;
  plan.steps.add(plan.pass.router.tiles.count, kernels.compute_d_router, joins);
}

// The sizes of a product of a frozen linear layer, and its tiles where the tasks of `products` of them run together.
LinearPass linear_pass(const lily_linear &call, const Blocking &blocking);
void plan_linear_tiles(const Blocking &blocking, int64_t products, LinearPass &pass);
void plan_direct_linear_tiles(int64_t products, LinearPass &pass);

namespace blocked {

// Bytes of a packed right operand of `depth` x `columns`.
int64_t panel_steps_bytes(const Blocking &blocking, int64_t columns, int64_t depth);

}  // namespace blocked

}  // namespace lily::cpu
