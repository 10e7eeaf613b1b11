// The kernels of AMX, or of its model. The including file defines LILY_TILES (the header with the tile registers),
// LILY_OPERAND (TilePairs for activations in bfloat16, TileTerms for float32; see tile.h), LILY_KERNELS (the name of
// the table) and LILY_DIRECT_PRODUCTS (the name of the direct products, which are defined elsewhere with
// LILY_SHARES_DIRECT). Other problems, folds and the optimiser use the kernels of another set.
//
// Compiled without contraction to fused multiply-adds: the model and the hardware then give the same bits.
#define LILY_VECTOR_BYTES 64
#define LILY_VECTOR_REGISTERS 32
#define LILY_ENGINE "cpu/amx/engine.h"
#if !defined(LILY_SHARES_DIRECT)
#include "cpu/backward_direct.h"
#endif
#include "cpu/backward_hidden.h"
#include "cpu/backward_router.h"
#include "cpu/blocked/products.h"
#include "cpu/forward_route.h"
#include "cpu/gather.h"
#include "cpu/token_routing.h"

namespace lily::cpu {
namespace {

constexpr LinearProducts kLinearProducts = {
    .blocking = &Engine::kBlocking,
    .scratch = blocked::linear_scratch,
    .pack = blocked::linear_pack,
    .linear = blocked::linear,
    .direct_scratch = nullptr,
    .direct = nullptr,
    .matmul = blocked::matmul<blocked::linear>,
    .matmul_direct = nullptr,
};

}  // namespace

#if !defined(LILY_SHARES_DIRECT)
const DirectProducts LILY_DIRECT_PRODUCTS = kDirectProducts;
#endif

const Kernels LILY_KERNELS = {
    .lanes = kLanes,
    .panel = kPanel,
    .tile_rows = 32,
    .dtype = Operand::kDtype,
    .depth = Operand::kDepth,
    .tile_products = nullptr,
    .blocked_products = &blocked::kProducts,
    .direct_products = &LILY_DIRECT_PRODUCTS,
    .linear_products = &kLinearProducts,
    .attention_products = nullptr,
    .elementwise = nullptr,
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
    .fold = nullptr,
    .sum_of_squares = nullptr,
    .adamw = nullptr,
    .double_rows = 0,
    .double_columns = 0,
    .shifts = 0,
    .multiply_double_tile = nullptr,
    .reflect_row = nullptr,
    .count_below = nullptr,
    .roof_step_flops = kRoofStepFlops,
    .roof_products = roof_products,
    .roof_read = nullptr,
    .roof_update = nullptr,
};

}  // namespace lily::cpu
