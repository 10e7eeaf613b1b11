// The tasks of the product of a frozen linear layer.
#include <algorithm>

#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/products.h"
#include "cpu/thread_pool.h"
#include "system/processor.h"

namespace lily::cpu {

LinearPass linear_pass(const lily_linear &call, const Blocking &blocking) {
  const lily_linear_problem &problem = call.problem;
  LinearPass pass = {};
  pass.call = &call;
  pass.depth = problem.transposed != 0 ? problem.d_out : problem.d_in;
  pass.columns = problem.transposed != 0 ? problem.d_in : problem.d_out;
  pass.depth_pieces = {pass.depth, blocking.chunk_depth, divide_up(pass.depth, blocking.chunk_depth)};
  pass.panel = blocking.panel;
  pass.panels = divide_up(pass.columns, blocking.panel);
  return pass;
}

// Chooses the tiles with which the thread that has the most to do has the least.
void plan_linear_tiles(const Blocking &blocking, int64_t products, LinearPass &pass) {
  const int64_t tokens = std::max<int64_t>(pass.call->problem.tokens, 1), threads = thread_count();
  // Packing a weight in the L2 cache takes about as long as multiplying this number of tokens.
  const int64_t packing_tokens = 16;
  const int64_t blocks = divide_up(tokens, blocking.block_rows);
  // In a larger L2 cache more columns, and with them fewer passes over the activations.
  static const auto l2_bytes = static_cast<int64_t>(system::l2_cache_bytes());
  const int64_t cached_bytes = blocking.cached_bytes * std::max<int64_t>(1, l2_bytes / blocking.l2_bytes);
  const int64_t widest =
      std::max<int64_t>(1, cached_bytes / blocked::panel_steps_bytes(blocking, 1, blocking.chunk_depth));
  const int64_t most_tiles = std::clamp<int64_t>(tokens / 64, 1, threads);
  int64_t least = INT64_MAX;
  for (int64_t token_tiles = 1; token_tiles <= most_tiles; ++token_tiles) {
    const int64_t tile_blocks = divide_up(blocks, token_tiles);
    const int64_t fewest_columns = divide_up(pass.panels, widest);
    for (int64_t columns = fewest_columns; columns <= std::min(pass.panels, fewest_columns + threads); ++columns) {
      const int64_t rounds = divide_up(products * columns * token_tiles, threads);
      const int64_t cost =
          rounds * divide_up(pass.panels, columns) * (tile_blocks * blocking.block_rows + packing_tokens);
      if (cost >= least) continue;
      least = cost;
      pass.column_tiles = columns;
      pass.tile_tokens = tile_blocks * blocking.block_rows;
    }
  }
  pass.token_tiles = divide_up(tokens, pass.tile_tokens);
  pass.widest_tile = divide_up(pass.panels, pass.column_tiles) * pass.panel;
}

// Tiles of at most this number of columns: the sums of eight tokens are then 16 KiB.
constexpr int64_t kDirectLinearColumns = 512;

void plan_direct_linear_tiles(int64_t products, LinearPass &pass) {
  const int64_t count =
      std::max(divide_up(2 * target_tasks(), products), divide_up(pass.columns, kDirectLinearColumns));
  pass.column_tiles = std::min(pass.panels, count);
  pass.widest_tile = divide_up(pass.panels, pass.column_tiles) * pass.panel;
  pass.tile_tokens = pass.call->problem.tokens;
  pass.token_tiles = 1;
}

LinearPlan plan_linear(const lily_linear &call, const Kernels &kernels) {
  const lily_linear_problem &problem = call.problem;
  LinearPlan plan = {};
  plan.products = kernels.linear_products;
  const Blocking &blocking = *plan.products->blocking;
  LinearPass &pass = plan.pass = linear_pass(call, blocking);
  // A weight of 16 bits in products of float32 numbers has no packed form, which would be twice as large as the weight:
  // native/cpu/README.md#frozen-linear-layers.
  const bool widens = kernels.dtype == LILY_FLOAT32 && problem.parameter_dtype != LILY_FLOAT32;
  pass.packed = widens ? nullptr : static_cast<const float *>(call.packed);
  const bool few = plan.products->direct != nullptr && problem.tokens <= kDirectLinearTokens;
  const bool is_direct = few && pass.packed == nullptr;
  if (is_direct) {
    plan_direct_linear_tiles(1, pass);
  } else {
    plan_linear_tiles(blocking, 1, pass);
  }
  // At most the size that no allocation has, as of a workspace.
  const uint64_t packed_bytes = static_cast<uint64_t>(blocked::panel_steps_bytes(blocking, pass.columns, pass.depth));
  plan.packed_bytes = widens ? 0 : static_cast<size_t>(std::min<uint64_t>(packed_bytes, SIZE_MAX));

  Workspace workspace(call.workspace);
  const auto scratch = is_direct ? plan.products->direct_scratch : plan.products->scratch;
  plan.scratch_floats = round_up(scratch(pass), Workspace::kAlignment / sizeof(float));
  plan.scratch = workspace.take<float>(plan.scratch_floats * thread_count());
  plan.workspace_bytes = workspace.bytes();
  const int64_t tasks = problem.tokens == 0 ? 0 : pass.column_tiles * pass.token_tiles;
  plan.steps.add(tasks, is_direct ? plan.products->direct : plan.products->linear);
  return plan;
}

}  // namespace lily::cpu
