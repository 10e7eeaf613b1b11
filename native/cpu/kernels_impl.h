// The kernels of one instruction set. Exactly one translation unit per set includes this file. It is compiled with the
// flags of the set and defines LILY_VECTOR_BYTES, LILY_VECTOR_REGISTERS, LILY_KERNELS (the name of its table) and
// LILY_OPERAND (Floats or Pairs, see tile.h).
#define LILY_ENGINE "cpu/vector_engine.h"
#include "cpu/adamw.h"
#include "cpu/attention.h"
#include "cpu/backward_direct.h"
#include "cpu/backward_dy.h"
#include "cpu/backward_hidden.h"
#include "cpu/backward_router.h"
#include "cpu/backward_x.h"
#include "cpu/blocked/products.h"
#include "cpu/elementwise.h"
#include "cpu/fold.h"
#include "cpu/forward_expand.h"
#include "cpu/forward_route.h"
#include "cpu/forward_shrink.h"
#include "cpu/gather.h"
#include "cpu/linear_direct.h"
#include "cpu/roof_loops.h"
#include "cpu/spectrum/kernels.h"
#include "cpu/token_routing.h"

namespace lily::cpu {
namespace {

int64_t forward_scratch(const ForwardPass &pass) {
  return maximum(maximum(shrink_scratch(pass), route_scratch(pass)), expand_scratch(pass));
}

int64_t backward_scratch(const BackwardPass &pass) {
  return maximum(maximum(backward_dy_scratch(pass), backward_x_scratch(pass)), d_router_scratch(pass));
}

constexpr TileProducts kTileProducts = {
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .shrink = shrink,
    .expand = expand,
    .dy_pass = dy_pass,
    .add_d_partials = add_d_partials,
    .x_pass = x_pass,
    .add_da_partials = add_da_partials,
};

constexpr LinearProducts kLinearProducts = {
    .blocking = &Engine::kBlocking,
    .scratch = blocked::linear_scratch,
    .pack = blocked::linear_pack,
    .linear = blocked::linear,
    .direct_scratch = linear_direct_scratch,
    .direct = linear_direct,
    .matmul = blocked::matmul<blocked::linear>,
    .matmul_direct = blocked::matmul<linear_direct>,
};

// Attention, folds, the optimiser, spectra and roofs of memory use the kernels of float32 numbers.
constexpr bool kIsComplete = Operand::kDtype == LILY_FLOAT32;

}  // namespace

const Kernels LILY_KERNELS = {
    .lanes = kLanes,
    .panel = kPanel,
    .tile_rows = kTileRows,
    .dtype = Operand::kDtype,
    .depth = Operand::kDepth,
    .tile_products = &kTileProducts,
    .blocked_products = &blocked::kProducts,
    .direct_products = &kDirectProducts,
    .linear_products = &kLinearProducts,
    .attention_products = kIsComplete ? &kAttentionProducts : nullptr,
    .elementwise = kIsComplete ? elementwise : nullptr,
    .gather_x = gather_x,
    .pack_router = pack_router,
    .route = route,
    .gather_dy = gather_dy,
    .gather_backward_x = gather_x,
    .compute_u = compute_u,
    .write_d_mixture = write_d_mixture,
    .pack_router_rows = pack_router_rows,
    .compute_d_hidden = compute_d_hidden,
    .compute_d_router = compute_d_router,
    .fold = kIsComplete ? fold : nullptr,
    .sum_of_squares = kIsComplete ? sum_of_squares : nullptr,
    .adamw = kIsComplete ? adamw : nullptr,
    .double_rows = kDoubleRows,
    .double_columns = kDoubleColumns,
    .shifts = kShifts,
    .multiply_double_tile = kIsComplete ? multiply_double_tile : nullptr,
    .reflect_row = kIsComplete ? reflect_row : nullptr,
    .count_below = kIsComplete ? count_below : nullptr,
    .roof_step_flops = kRoofStepFlops,
    .roof_products = roof_products,
    .roof_read = kIsComplete ? roof_read : nullptr,
    .roof_update = kIsComplete ? roof_update : nullptr,
};

}  // namespace lily::cpu
