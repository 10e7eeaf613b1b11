// The tasks of the passes with the large products, for each kind of LargeProducts. A function named after a pass plans
// that pass, and takes the arrays that only this kind needs.
#pragma once

#include "core/workspace.h"
#include "cpu/kernels.h"

namespace lily::cpu {

namespace register_tile {

void plan_shrink(ForwardPass &pass, const Kernels &kernels);
RowTiles expand_tiles(const ForwardPass &pass, const Kernels &kernels);
void plan_dy_pass(BackwardPass &pass, const Kernels &kernels, Workspace &workspace);
XPass plan_x_pass(const lily_problem &problem, const Kernels &kernels, Workspace &workspace);

}  // namespace register_tile

namespace blocked {

void plan_shrink(const Blocking &blocking, ForwardPass &pass, Workspace &workspace);
void plan_dy_pass(const Blocking &blocking, BackwardPass &pass);
XPass plan_x_pass(const Blocking &blocking, const lily_problem &problem);

// The tiles of y or dx. Each tile of tokens packs its columns of C again; 32 E tokens amortise that.
RowTiles row_tiles(const Blocking &blocking, int64_t tokens, int64_t columns, int64_t rank, int64_t experts);

// A product of rows with a packed operand of `depth` x `rank`. With one tile of tokens each task packs its own columns,
// of which the threads then have equal shares; otherwise they are packed before the product, for all tasks.
RankProduct plan_rank_product(const Blocking &blocking, int64_t tokens, int64_t depth, int64_t rank,
                              Workspace &workspace);

// lhs^T, and later dh^T: tokens are the steps, and a group ends in a step of its own.
float *take_packed_lhs(const Blocking &blocking, const BackwardPass &pass, Workspace &workspace);

// Bytes of a packed right operand of `depth` x `columns`.
int64_t panel_steps_bytes(const Blocking &blocking, int64_t columns, int64_t depth);

}  // namespace blocked

namespace direct {

void plan_shrink(ForwardPass &pass);
RowTiles expand_tiles(const lily_problem &problem, const Kernels &kernels);
void plan_dy_pass(BackwardPass &pass, const Kernels &kernels);
XPass plan_x_pass(const lily_problem &problem, const Kernels &kernels);

}  // namespace direct

}  // namespace lily::cpu
