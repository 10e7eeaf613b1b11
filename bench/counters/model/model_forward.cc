// The steps of forward; see model.h.
#include <algorithm>
#include <cmath>

#include "core/problem.h"
#include "model/model.h"
#include "model/model_terms.h"

namespace lily::cuda {
namespace {

constexpr int kShrinkRegisters = 62, kMixRegisters = 92;
// Without the registers of the loads of B: 16 for each row of C that a thread has in flight.
constexpr int kExpandRegisters = 72;

}  // namespace

void Model::add_hidden_outputs(Work &work, bool shares_hidden) const {
  work.writes(tokens_ * rank_ * hidden_);
  if (!shares_hidden) work.writes(tokens_ * rank_ * scalar_);
}

// What routing reads and writes, apart from h, if `blocks` blocks each read R.
void Model::add_route(Work &work, int blocks) const {
  if (!routes_) return;
  work.reads(experts_ * rank_ * parameter_, blocks);
  work.writes(4 * tokens_ * experts_);
  if (has_token_weights_) return;
  work.written += 4 * (experts_ + 1) * blocks;
  work.requested += kSector * (experts_ + 1) * blocks;
}

Work Model::shrink(const ShrinkRow &row, int tile_tokens, int splits, bool shares_hidden) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile_tokens);
  const int row_tiles = ceil_divide(problem_.rank, tile.block_n);
  work.reads(tokens_ * d_in_ * scalar_, row_tiles);
  work.reads(rank_ * d_in_ * scalar_, token_tiles);
  double tail = constants_.dram_latency;
  if (splits > 0) {
    work.writes(4 * splits * tokens_ * round_up(problem_.rank, 4));
  } else {
    add_hidden_outputs(work, shares_hidden);
    if (routes_ && row_tiles == 1) {
      add_route(work, token_tiles);
      tail += route_clocks(tile_tokens, row.threads);
    }
  }
  const double depth = splits > 1 ? kSplitTiles * kTileBytes / scalar_ : d_in_;
  const double steps = ceil_of(depth, tile.block_k);
  const double copied =
      (std::min<double>(tile_tokens, tokens_) + std::min<double>(tile.block_n, rank_)) * tile.block_k * scalar_;
  const double step = product_clocks(tile.block_m, tile.block_n, tile.block_k, row.warps, copied);
  work.add({int64_t{token_tiles} * row_tiles * std::max(splits, 1), steps * step,
            steps * constants_.dram_latency / (row.stages - 1), tail, static_cast<int>((row.stages - 1) * copied)});
  work.shared_bytes = row.bytes;
  work.registers = registers(kShrinkRegisters, row.accumulators);
  work.threads = row.threads;
  return work;
}

// Clocks of the logits of a block's tokens, and of what follows from them.
double Model::route_clocks(int tile_tokens, int threads) const {
  return 3 * constants_.l2_latency + ceil_of(tile_tokens * experts_, threads) * rank_ * 2;
}

// A block loads R before the partial sums have been written.
Work Model::route(int tile_tokens, int splits, bool shares_hidden, int shared_bytes) const {
  Work work = {};
  const int blocks = ceil_divide(problem_.tokens, tile_tokens);
  const double vectors = tile_tokens * std::ceil(rank_ / 4);
  work.reads(16.0 * splits * tokens_ * std::ceil(rank_ / 4));
  add_hidden_outputs(work, shares_hidden);
  add_route(work, blocks);
  work.add({blocks, 0, ceil_of(vectors, kThreads) * ceil_of(splits, 8) * constants_.l2_latency,
            routes_ ? route_clocks(tile_tokens, kThreads) : 2 * constants_.l2_latency,
            static_cast<int>(std::min<double>(vectors, kThreads) * std::min(splits, 8) * 16)});
  work.shared_bytes = shared_bytes;
  work.registers = 64;
  return work;
}

Work Model::large_hidden(const LargeRow &row, const ProductPlan &plan, bool shares_hidden) const {
  Work work = large_product(row, plan, d_in_, rank_, scalar_, scalar_);
  add_hidden_outputs(work, shares_hidden);
  work.kinds[0].exposed =
      work.kinds[0].serial +
      result_clocks(row.tile.block_m, std::min<double>(plan.tile_columns, rank_), 2, sizeof(float), hidden_);
  work.shared_bytes = row.hidden_bytes(0);
  return work;
}

// A frozen linear layer: to the model, h = x A^T whose rank is the number of columns of y. Its weight is read as it is.
Work Model::linear(const LargeRow &row, const ProductPlan &plan) const {
  Work work = large_output(row, plan, d_in_, rank_, scalar_, scalar_);
  work.writes(tokens_ * rank_ * activation_);
  return work;
}

Work Model::route(int tile_tokens) const {
  constexpr double kWarpTokens = 4;
  Work work = {};
  const int blocks = ceil_divide(problem_.tokens, tile_tokens);
  work.reads(tokens_ * rank_ * scalar_, experts_);
  add_route(work, 0);
  work.requested += ceil_of(tile_tokens, kWarpTokens) * blocks * experts_ * rank_ * parameter_;
  work.read += experts_ * rank_ * parameter_;
  if (!has_token_weights_) {
    work.written += 4 * (experts_ + 1) * blocks;
    work.requested += kSector * (experts_ + 1) * blocks;
  }
  const double rounds = ceil_of(tile_tokens, kWarpTokens * kWarps) * experts_ * ceil_of(rank_, 8 * kWarp);
  work.add({blocks, 0, rounds * constants_.l2_latency, 2 * constants_.dram_latency, kThreads * 80});
  work.registers = 64;
  return work;
}

Work Model::pool(int threads) const {
  constexpr double kLoadsInFlight = 8;
  Work work = {};
  work.reads(4 * tokens_ * experts_);
  work.writes(4 * groups_ * experts_);
  const double rounds = ceil_of(experts_, 4) * ceil_of(tokens_ / groups_, threads * kLoadsInFlight);
  work.add({problem_.groups, 0, rounds * constants_.dram_latency, 3 * constants_.l2_latency,
            static_cast<int>(threads * 16 * kLoadsInFlight)});
  work.registers = 64;
  return work;
}

Work Model::combine(int partial_count) const {
  Work work = {};
  const int blocks = ceil_divide(problem_.d_out, kCombineColumns) * ceil_divide(problem_.rank, kCombineRows);
  work.reads(experts_ * rank_ * d_out_ * parameter_);
  if (partial_count > 0)
    add_sum_rows(work, experts_ + 1, partial_count, blocks);
  else
    work.reads(kSector, blocks);
  work.writes(rank_ * d_out_ * scalar_);
  const double passes = VectorLoads(kCombineRows, kCombineColumns).passes * ceil_of(experts_, 4);
  work.add({blocks, 0, passes * constants_.dram_latency, sum_rows_clocks(experts_ + 1, partial_count, kThreads),
            static_cast<int>(kThreads * 16 * scalar_)});
  work.shared_bytes = static_cast<int>(kCombineRows * kCombineColumns * scalar_);
  work.registers = 48;
  return work;
}

Work Model::expand(const StripRow &row, const Walk &walk, int partial_count) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double tiles = ceil_of(walk.split_tokens, tile.block_m), all_tiles = ceil_of(tokens_, tile.block_m);
  const double blocks = static_cast<double>(walk.column_tiles) * walk.splits;
  const double combined = walk.row_tiles == 1 ? walk.splits : all_tiles;
  work.reads(experts_ * rank_ * d_out_ * parameter_, combined);
  // Combining loads all rows of a tile: those beyond the rank are the last row again, once per warp.
  const double beyond = round_up(problem_.rank, tile.block_k) - rank_, warp_rows = 4.0 * kWarp / tile.block_n;
  work.requested += experts_ * ceil_of(beyond, std::max(1.0, warp_rows)) * d_out_ * parameter_ * combined;
  double serial = 2 * constants_.dram_latency, step = constants_.dram_latency / 2;  // two tiles are in flight
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles);
  if (partial_count > 0) {
    add_sum_rows(work, experts_ + 1, partial_count, blocks);
    work.writes(4 * experts_);
  }
  const VectorLoads combined_rows(tile.block_k, tile.block_n, row.threads);
  const double combining = combined_rows.passes * ceil_of(experts_, 4);
  serial += sum_rows_clocks(experts_ + 1, partial_count, row.threads);
  (walk.row_tiles == 1 ? serial : step) += combining * constants_.dram_latency;
  work.updates(tokens_ * d_out_ * activation_);
  const double copied = (rank_ / walk.row_tiles + 2 * tile.block_n) * tile.block_m * scalar_;
  const double busy = walk.row_tiles * product_clocks(tile.block_m, tile.block_n, std::min<double>(rank_, tile.block_k),
                                                      row.expand_warps, copied);
  work.add({static_cast<int64_t>(blocks), tiles * busy, tiles * walk.row_tiles * step, serial,
            static_cast<int>(2 * (rank_ / walk.row_tiles + tile.block_n) * tile.block_m * scalar_)});
  work.shared_bytes = walk.shared_bytes;
  work.registers =
      registers(kExpandRegisters + 16 * static_cast<int>(combined_rows.in_flight), row.expand_accumulators);
  work.threads = row.threads;
  return work;
}

Work Model::mix(const MixRow &row, const Walk &walk, bool b_stays) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double columns = experts_ * rank_, b_bytes = columns * d_out_ * scalar_;
  const double tiles = ceil_of(walk.split_tokens, tile.block_m), all_tiles = ceil_of(tokens_, tile.block_m);
  work.reads(b_bytes, b_stays ? walk.splits : all_tiles);
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles);
  // Four bytes per thread. The tokens of a sequence all read the same sector.
  work.read += 4 * (per_token_ ? tokens_ : groups_) * experts_;
  work.requested += tokens_ * experts_ * walk.column_tiles * (per_token_ ? 4 : kSector / kWarp);
  work.updates(tokens_ * d_out_ * activation_);
  // Fragments of u come from h. Each warp loads the weights of its rows for each expert, 8 of them per wavefront,
  // for one or two groups of columns.
  const double loads = static_cast<int>(rank_ * scalar_) % 32 == 0 ? 1 : 2;
  const double weights = row.warps.n * experts_ * tile.block_m / 8.0 * 128 * loads;
  const double copied =
      ((rank_ + 2 * tile.block_n) * tile.block_m + (b_stays ? 0 : columns * tile.block_n)) * scalar_ + weights;
  // To form an element of u takes a multiplication and a share of its conversion from and to 16 bits.
  constexpr double kFormInstructions = 2.5, kInstructions = 4 * kWarp;  // per clock
  const double forming = row.warps.n * tile.block_m * columns * kFormInstructions / kInstructions;
  const double busy = std::max(product_clocks(tile.block_m, tile.block_n, columns, row.warps, copied), forming);
  const int ahead = mix_stages(walk.row_tiles) - 1;
  // Clocks of a step whose operands have arrived: a barrier, and the first products. If B stays, a tile of tokens is
  // one step.
  constexpr double kStepClocks = 100;
  const double steps = b_stays ? kStepClocks : walk.row_tiles * std::max(kStepClocks, constants_.l2_latency / 2);
  const double of_tokens = (rank_ + tile.block_n) * tile.block_m * scalar_;
  work.add({int64_t{walk.column_tiles} * walk.splits, tiles * busy,
            tiles * std::max(constants_.dram_latency / ahead, steps), 2 * constants_.dram_latency,
            static_cast<int>(ahead * of_tokens)});
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kMixRegisters, row.accumulators);
  return work;
}

Work Model::form_u() const {
  Work work = {};
  work.reads(tokens_ * rank_ * scalar_);
  work.reads(4 * (per_token_ ? tokens_ : groups_) * experts_, per_token_ ? 1 : tokens_ / groups_);
  work.writes(tokens_ * experts_ * rank_ * scalar_);
  const double rounds = ceil_of(rank_, 4 * kWarp);
  work.add({ceil_divide(problem_.tokens, kWarps), 0, rounds * constants_.dram_latency, constants_.l2_latency,
            static_cast<int>(kThreads * 4 * scalar_)});
  work.registers = 40;
  return work;
}

Work Model::large_y(const LargeRow &row, const ProductPlan &plan) const {
  Work work = large_output(row, plan, has_token_weights_ ? experts_ * rank_ : rank_, d_out_, scalar_, scalar_);
  work.updates(tokens_ * d_out_ * activation_);
  return work;
}

Work Model::decode(const DecodeRow &row, const DecodeStages &stages, int shared_bytes) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double splits = ceil_of(d_in_ * scalar_, kSplitTiles * kTileBytes);
  const int blocks = ceil_divide(problem_.d_out, tile.block_n);
  const double pitch = round_up(problem_.rank, 4);
  work.reads(4 * splits * tokens_ * pitch, blocks);
  work.reads(experts_ * rank_ * d_out_ * parameter_);
  work.updates(tokens_ * d_out_ * activation_);
  work.writes(tokens_ * rank_ * hidden_);
  if (routes_) {
    work.reads(experts_ * rank_ * parameter_, blocks);
    work.writes(4 * tokens_ * experts_ + 4 * groups_ * experts_);
  }
  // The first stages of B arrive while the partial sums are added and the weights are formed.
  const double sums = ceil_of(tokens_ * pitch / 4, kThreads) * ceil_of(splits, 8) * constants_.l2_latency;
  const double serial = std::max(0.0, sums + 5 * constants_.l2_latency - constants_.dram_latency);
  const double later = std::max(0, stages.count() - kDecodeStages) / (kDecodeStages - 1.0);
  const double rows = has_token_weights_ ? experts_ * rank_ : rank_;
  const double in_flight = std::min(kDecodeStages * stages.rows() * 1.0, experts_ * rank_) * tile.block_n * parameter_;
  const double fragment_rows = 16 * ceil_of(tokens_, 16);
  work.add({blocks, product_clocks(fragment_rows, tile.block_n, rows, {1, 4}, 0), (1 + later) * constants_.dram_latency,
            serial, static_cast<int>(in_flight)});
  work.shared_bytes = shared_bytes;
  work.registers = 164;
  return work;
}

}  // namespace lily::cuda
