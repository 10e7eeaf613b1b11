// The steps of backward; see model.h.
#include <algorithm>
#include <cmath>

#include "core/problem.h"
#include "model/model.h"
#include "model/model_terms.h"

namespace lily::cuda {
namespace {

// Forming dl of a tile: p, a barrier, a division, a barrier.
constexpr double kFormDLogitsLatencies = 3;  // of L2

constexpr int kDyRegisters = 75, kXRegisters = 95;

}  // namespace

// A gradient of `copies` x rows x columns, or the partial sums of one copy.
void Model::add_gradient(Work &work, double rows, double columns, int splits, double copies) const {
  if (splits > 1)
    work.writes(4 * splits * rows * columns);
  else
    work.updates(parameter_ * copies * rows * columns);
}

// Clocks of writing a tile of a gradient; `copies` tiles are added to the old gradient, eight loads per thread in
// flight.
double Model::gradient_clocks(const Tile &tile, int splits, double copies) const {
  const double loads = tile.block_m * tile.block_n / 4.0 / kThreads;
  return constants_.dram_latency * (splits > 1 ? 1 : copies * ceil_of(loads, 8));
}

double Model::d_weights_clocks(double rows, double columns, int threads) const {
  if (!routes_ || has_token_weights_) return 0;
  return ceil_of(experts_, kDWeightExperts) * (VectorLoads(rows, columns, threads).passes + 1) * constants_.l2_latency;
}

// dl, and dh from q, of `tiles` tiles of rows x columns elements in `blocks` blocks. Returns the clocks of a block.
double Model::add_completion(Work &work, double tiles, double blocks, double rows, double columns,
                             int d_weights_partials, int threads) const {
  const VectorLoads loads(rows, columns, threads);
  work.writes(tokens_ * rank_ * scalar_);
  if (!routes_) return constants_.l2_latency;
  work.read += experts_ * rank_ * parameter_;
  work.requested +=
      tiles * loads.passes * threads / kWarp * 4 * ceil_of(experts_, 4) * std::min(columns, rank_) * parameter_;
  // With token routing the probabilities are the weights, which the same launch has read.
  if (per_token_) work.requested += 4 * tokens_ * experts_;
  if (per_token_ || !pools_logits_) work.reads(4 * tokens_ * experts_);
  work.writes(4 * tokens_ * experts_);
  double clocks =
      (kFormDLogitsLatencies + loads.passes * ceil_of(experts_, 4)) * constants_.l2_latency * tiles / blocks;
  if (!has_token_weights_) {
    add_sum_rows(work, experts_, d_weights_partials, blocks);
    clocks += sum_rows_clocks(experts_, d_weights_partials, threads);
  }
  return clocks;
}

void Model::add_token_blocks(Work &work, const ShrinkRow &shrink_row, int tile_tokens, double blocks, bool completes,
                             int d_weights_partials) const {
  const Tile &tile = shrink_row.tile;
  const double shrink_rows = has_token_weights_ ? experts_ * rank_ : rank_;
  const double row_tiles = ceil_of(shrink_rows, tile.block_n);
  const double q_bytes = 4 * tokens_ * round_up(problem_.rank, 4);
  double tail = constants_.dram_latency;
  work.requested += tokens_ * d_out_ * scalar_ * row_tiles;
  if (has_token_weights_) {
    work.reads(experts_ * rank_ * d_out_ * scalar_, blocks);
    const double updated = 4 * tokens_ * row_tiles * std::min({rank_, shrink_rows, double(tile.block_n)});
    work.written += q_bytes;
    work.requested += std::max(updated, q_bytes);
    const bool updates = updated > q_bytes;
    if (updates) work.reads(4 * tokens_ * rank_, (updated - q_bytes) / (4 * tokens_ * rank_));
    work.read += 4 * (per_token_ ? tokens_ : groups_) * experts_;
    work.requested += tokens_ * rank_ * experts_;
    if (completes) {
      work.requested += q_bytes;
      if (!updates) work.read += q_bytes;
    }
    if (routes_) {
      work.written += 4 * tokens_ * experts_;
      work.requested += tokens_ * experts_ * (kSector + std::max(kSector, rank_ * hidden_));
      tail += ceil_of(tile_tokens * experts_, shrink_row.threads / kWarp * 4) * constants_.l2_latency;
    }
  } else {
    work.reads(rank_ * d_out_ * scalar_, blocks);
    if (!completes) work.writes(q_bytes);
  }
  const double units = has_token_weights_ ? 1 : row_tiles;
  if (completes)
    tail += add_completion(work, blocks * units, blocks * units, tile_tokens, has_token_weights_ ? rank_ : tile.block_n,
                           d_weights_partials, shrink_row.threads);
  const double steps = ceil_of(d_out_, tile.block_k) * (has_token_weights_ ? row_tiles : 1);
  const double copied = (tile_tokens + std::min<double>(tile.block_n, shrink_rows)) * tile.block_k * scalar_;
  const double step = product_clocks(tile.block_m, tile.block_n, tile.block_k, shrink_row.warps, copied);
  work.add({static_cast<int64_t>(blocks * units), steps * step,
            steps * constants_.dram_latency / (shrink_row.stages - 1), tail,
            static_cast<int>((shrink_row.stages - 1) * copied)});
}

void Model::add_column_blocks(Work &work, const StripRow &row, const Walk &walk, int outer_rows) const {
  const Tile &tile = row.tile;
  const double shrink_rows = has_token_weights_ ? experts_ * rank_ : rank_;
  work.requested += tokens_ * d_out_ * scalar_ * walk.row_tiles;
  work.read += tokens_ * rank_ * scalar_;
  double lhs_step = constants_.dram_latency / 2;  // two tiles are in flight
  if (has_token_weights_) {
    work.requested +=
        tokens_ * walk.column_tiles * outer_rows / (experts_ * rank_) *
        (form_u_bytes(tile.block_k) + ceil_of(shrink_rows, tile.block_k) * tile.block_k / 128.0 * kSector);
    lhs_step =
        std::max(lhs_step, 2 * VectorLoads(tile.block_m, tile.block_k, row.threads).passes * constants_.l2_latency);
    add_gradient(work, outer_rows, d_out_, walk.splits, 1);
  } else {
    work.requested += tokens_ * rank_ * scalar_ * walk.column_tiles;
    add_gradient(work, rank_, d_out_, walk.splits, experts_);
    if (routes_) {
      work.reads(experts_ * rank_ * d_out_ * parameter_, walk.splits);
      work.written += 4 * experts_ * walk.outer_blocks();
      work.requested += kSector * experts_ * walk.outer_blocks();
    }
  }
  const double tiles = ceil_of(walk.split_tokens, tile.block_m);
  const double copied = (std::min<double>(tile.block_k, outer_rows) + tile.block_n) * tile.block_m * scalar_;
  // Rows beyond the rank are multiplied too: they are zeros.
  const double busy = product_clocks(tile.block_k, tile.block_n, tile.block_m, row.outer_warps, copied);
  work.add({walk.outer_blocks(), tiles * busy, tiles * lhs_step,
            2 * constants_.dram_latency + d_weights_clocks(tile.block_k, tile.block_n, row.threads),
            static_cast<int>(2 * copied)});
}

void Model::add_combine_blocks(Work &work) const {
  const Grid grid = {ceil_divide(problem_.d_out, kCombineColumns), ceil_divide(problem_.rank, kCombineRows), 1};
  const auto blocks = static_cast<double>(grid.blocks());
  // B is touched for dw too.
  if (routes_)
    work.requested += experts_ * rank_ * d_out_ * parameter_;
  else
    work.reads(experts_ * rank_ * d_out_ * parameter_);
  work.reads(4 * experts_, blocks * kSector / (4 * experts_));
  work.writes(rank_ * d_out_ * scalar_);
  work.add(
      {grid.blocks(), 0, ceil_of(experts_, 4) * constants_.dram_latency, 2 * constants_.dram_latency, kThreads * 32});
}

Work Model::dy(const StripRow &row, const Walk &walk, const ShrinkRow &shrink_row, int tile_tokens, int outer_rows,
               bool completes) const {
  Work work = {};
  const double dy_bytes = tokens_ * d_out_ * scalar_;
  const double token_blocks = std::min(static_cast<double>(walk.splits) * ceil_divide(walk.split_tokens, tile_tokens),
                                       ceil_of(tokens_, tile_tokens) + walk.splits - 1);
  work.read = dy_bytes;
  add_token_blocks(work, shrink_row, tile_tokens, token_blocks, completes, 0);
  add_column_blocks(work, row, walk, outer_rows);
  work.shared_bytes = std::max(shrink_row.bytes, walk.shared_bytes);
  work.registers = registers(kDyRegisters, std::max(row.outer_accumulators, shrink_row.accumulators));
  work.threads = row.threads;
  // The second reading of a split's dy finds in L2 what the first has loaded, as far as the dy of the splits in flight
  // fits into half of L2: other data pass through it too.
  const double of_split = static_cast<double>(work.kinds[0].count + work.kinds[1].count) / walk.splits;
  const double in_flight =
      std::min<double>(walk.splits, 1 + predict(work).resident * device_.multiprocessors / of_split);
  work.reread = dy_bytes * missing_share(dy_bytes * in_flight / walk.splits);
  return work;
}

// The share of `bytes` that has left L2 before it is read again: none up to half of L2, all from the size of L2 on.
double Model::missing_share(double bytes) const {
  const double half = static_cast<double>(device_.l2_bytes) / 2;
  return std::clamp((bytes - half) / half, 0.0, 1.0);
}

Work Model::dy_columns(const StripRow &row, const Walk &walk) const {
  Work work = {};
  work.read = tokens_ * d_out_ * scalar_;
  add_column_blocks(work, row, walk, problem_.rank);
  add_combine_blocks(work);
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kDyRegisters, row.outer_accumulators);
  work.threads = row.threads;
  return work;
}

// dy_columns has read dy before: the part that is still in L2 does not come from memory.
Work Model::dy_tokens(const ShrinkRow &shrink_row, int tile_tokens, int d_weights_partials) const {
  Work work = {};
  const double dy_bytes = tokens_ * d_out_ * scalar_;
  work.read = dy_bytes;
  work.reread = dy_bytes * (missing_share(dy_bytes) - 1);
  add_token_blocks(work, shrink_row, tile_tokens, ceil_of(tokens_, tile_tokens), true, d_weights_partials);
  work.shared_bytes = shrink_row.bytes;
  work.registers = registers(kDyRegisters, shrink_row.accumulators);
  work.threads = shrink_row.threads;
  return work;
}

Work Model::dy_once(const OnceRow &row, const Walk &walk) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double blocks = walk.outer_blocks();
  work.reads(tokens_ * d_out_ * scalar_);
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles);
  work.reads(experts_ * rank_ * d_out_ * parameter_, walk.splits * (routes_ ? 2 : 1));
  work.reads(4 * experts_, blocks);
  work.writes(4 * walk.column_tiles * tokens_ * round_up(problem_.rank, 4));
  add_gradient(work, rank_, d_out_, walk.splits, experts_);
  if (routes_) {
    work.written += 4 * experts_ * blocks;
    work.requested += kSector * experts_ * blocks;
  }
  const double tiles = ceil_of(walk.split_tokens, tile.block_m);
  const double copied = (tile.block_k + tile.block_n) * tile.block_m * scalar_;
  const double busy = product_clocks(tile.block_k, tile.block_n, tile.block_m, {1, kWarps}, copied) +
                      product_clocks(tile.block_m, tile.block_k, tile.block_n, {1, 2}, 0);
  const double combining = VectorLoads(tile.block_k, tile.block_n).passes * ceil_of(experts_, 4);
  work.add({static_cast<int64_t>(blocks), tiles * busy,
            tiles * (constants_.dram_latency / (row.stages - 1) + constants_.l2_latency),
            combining * constants_.dram_latency + d_weights_clocks(tile.block_k, tile.block_n, kThreads),
            static_cast<int>((row.stages - 1) * copied)});
  work.shared_bytes = row.bytes;
  work.registers = registers(kXRegisters, tile.block_k / 16 * tile.block_n / 8);
  return work;
}

Work Model::d_hidden(int q_partials, int d_weights_partials, const BackwardPlan &plan) const {
  Work work = {};
  const double tiles = ceil_of(tokens_, kHiddenTokens), blocks = ceil_of(tokens_, plan.hidden_tokens);
  work.reads(4 * q_partials * tokens_ * rank_);
  double clocks = ceil_of(q_partials, 4) * constants_.dram_latency * tiles / blocks;
  clocks += add_completion(work, tiles, blocks, kHiddenTokens, std::min(rank_, 128.0), d_weights_partials, kThreads);
  if (has_token_weights_ && routes_) {
    // Each block adds dw of the sequences of its tokens.
    const double sequence = tokens_ / groups_;
    work.reads(4 * tokens_ * experts_, std::max(1.0, blocks * sequence / tokens_));
    clocks += ceil_of(sequence, kThreads * 8) * ceil_of(experts_, 4) * constants_.l2_latency;
  }
  work.add({static_cast<int64_t>(blocks), 0, clocks, 2 * constants_.dram_latency, kThreads * 64});
  work.shared_bytes = backward_hidden_bytes(problem_.experts, has_token_weights_);
  work.registers = 96;
  return work;
}

void Model::add_router_blocks(Work &work, const BackwardPlan &plan) const {
  if (!routes_) return;
  const double elements = experts_ * rank_, warps = ceil_of(elements, kWarp);
  work.read += tokens_ * rank_ * hidden_;
  work.requested += tokens_ * warps * std::max(kSector, std::min<double>(rank_, kWarp) * hidden_);
  work.reads(4 * tokens_ * experts_, plan.router_element_tiles);
  work.writes(4 * plan.router_splits * elements);
  const double tiles = plan.router_split_tokens / kRouterTile;
  work.add({int64_t{plan.router_splits} * plan.router_element_tiles, 0,
            tiles * (2 * constants_.dram_latency + constants_.l2_latency), constants_.dram_latency, kThreads * 16 * 2});
}

Work Model::x(const StripRow &row, const Walk &walk, const BackwardPlan &plan) const {
  Work work = {};
  const Tile &tile = row.tile;
  const bool is_one = walk.row_tiles == 1;
  const double all_tiles = ceil_of(tokens_, tile.block_m), tiles = ceil_of(walk.split_tokens, tile.block_m);
  work.reads(tokens_ * d_in_ * scalar_, walk.row_tiles);
  work.updates(tokens_ * d_in_ * activation_);
  work.reads(rank_ * d_in_ * scalar_, is_one ? walk.splits : all_tiles);
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles * (is_one ? 1.0 : 2.0));
  add_gradient(work, rank_, d_in_, walk.splits, 1);
  const double depth = std::min<double>(tile.block_k, rank_);
  const double copied = (depth + 3 * tile.block_n) * tile.block_m * scalar_;
  const double expand = product_clocks(tile.block_m, tile.block_n, depth, row.expand_warps, copied);
  const double outer = product_clocks(tile.block_k, tile.block_n, tile.block_m, row.outer_warps, 0);
  const double step = constants_.dram_latency / 2;  // two tiles are in flight
  const double serial = 2 * constants_.dram_latency;
  const int in_flight = static_cast<int>(2 * (depth + (is_one ? 2 : 1) * tile.block_n) * tile.block_m * scalar_);
  if (is_one) {
    work.add({int64_t{walk.column_tiles} * walk.splits, tiles * (expand + outer), tiles * step, serial, in_flight});
  } else {
    work.add({int64_t{walk.column_tiles} * walk.splits, tiles * walk.row_tiles * expand, tiles * walk.row_tiles * step,
              serial, in_flight});
    work.add({walk.outer_blocks(), tiles * outer, tiles * step, serial, in_flight});
  }
  add_router_blocks(work, plan);
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kXRegisters, row.outer_accumulators + row.expand_accumulators);
  work.threads = row.threads;
  return work;
}

// The blocks of an outer product, whose gradient has `copies`.
void Model::add_large_outer(Work &work, const LargeRow &row, const Walk &walk, double copies, double tail) const {
  const Tile &tile = row.tile;
  const double steps = ceil_of(walk.split_tokens, tile.block_k);
  const double copied = (walk.tile_rows + tile.block_n) * tile.block_k * scalar_;
  const double serial =
      constants_.dram_latency + gradient_clocks(tile, walk.splits, copies) * kThreads / row.threads() + tail;
  const double written = walk.splits > 1 ? 1 : copies;
  work.add({walk.outer_blocks(), large_clocks(row, walk.tile_rows, tile.block_n, walk.split_tokens, tile.block_m),
            steps * constants_.dram_latency / (row.stages - 1), serial, static_cast<int>((row.stages - 1) * copied),
            serial + result_clocks(walk.tile_rows, tile.block_n, 1 + written, sizeof(float),
                                   walk.splits > 1 ? sizeof(float) : copies * parameter_)});
}

Work Model::large_outer(const LargeRow &row, const Walk *dy, const Walk *x, const BackwardPlan &plan) const {
  Work work = {};
  if (dy != nullptr) {
    work.reads(tokens_ * rank_ * scalar_, dy->column_tiles);
    work.reads(tokens_ * d_out_ * scalar_, dy->row_tiles);
    add_gradient(work, rank_, d_out_, dy->splits, experts_);
    if (routes_) {
      work.reads(experts_ * rank_ * d_out_ * parameter_, dy->splits);
      work.written += 4 * experts_ * dy->outer_blocks();
      work.requested += kSector * experts_ * dy->outer_blocks();
    }
    add_large_outer(work, row, *dy, experts_, d_weights_clocks(dy->tile_rows, row.tile.block_n, row.threads()));
  }
  if (x != nullptr) {
    work.reads(tokens_ * rank_ * scalar_, x->column_tiles);
    work.reads(tokens_ * d_in_ * scalar_, x->row_tiles);
    add_gradient(work, rank_, d_in_, x->splits, 1);
    add_large_outer(work, row, *x, 1, 0);
    add_router_blocks(work, plan);
  }
  work.shared_bytes = row.outer_bytes;
  work.registers = registers(kLargeOuterRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

Work Model::large_d_hidden(const LargeRow &row, const ProductPlan &plan, int d_weights_partials) const {
  Work work = large_product(row, plan, d_out_, rank_, scalar_, scalar_);
  const Tile &tile = row.tile;
  Blocks &blocks = work.kinds[0];
  const double columns = std::min<double>(plan.tile_columns, rank_), count = static_cast<double>(blocks.count);
  blocks.serial +=
      add_completion(work, count, count, tile.block_m, plan.tile_columns, d_weights_partials, row.threads());
  if (routes_ && !pools_logits_) work.requested += 4 * tokens_ * experts_ * (ceil_of(rank_, plan.tile_columns) - 1);
  blocks.exposed = blocks.serial + result_clocks(tile.block_m, columns, 2, sizeof(float), scalar_);
  work.shared_bytes = row.hidden_bytes(problem_.experts);
  return work;
}

Work Model::large_dx(const LargeRow &row, const ProductPlan &plan) const {
  Work work = large_output(row, plan, rank_, d_in_, scalar_, scalar_);
  work.updates(tokens_ * d_in_ * activation_);
  return work;
}

// Its time grows in proportion to its bytes, so that the choices of the dy phase and of the x phase do not depend on
// each other.
Work Model::reduce(int dy_splits, int x_splits, int outer_rows, int router_splits) const {
  Work work = {};
  double blocks = 0;
  const auto add = [&](double splits, double rows, double columns, double copies) {
    work.reads(4 * splits * rows * columns);
    work.updates(parameter_ * copies * rows * columns);
    blocks += ceil_of(rows * columns / 4, kThreads);
  };
  if (dy_splits > 1) add(dy_splits, outer_rows, d_out_, has_token_weights_ ? 1 : experts_);
  if (x_splits > 1) add(x_splits, rank_, d_in_, 1);
  if (router_splits > 0) add(router_splits, experts_, rank_, 1);
  work.add({static_cast<int64_t>(blocks), 0, 0, 4 * constants_.dram_latency, kThreads * 64});
  work.registers = 32;
  return work;
}

}  // namespace lily::cuda
