#include "cuda/launch/model.h"

#include <algorithm>
#include <cmath>

#include "core/problem.h"

namespace lily::cuda {
namespace {

constexpr double kSector = 32;
// Between two dependent launches of a stream: the first drains and the second starts.
constexpr double kLaunchGap = 1.5e-6;
// The share of its rate that a multiprocessor reaches with one, two, and more resident blocks of four warps: a single
// block waits at its barriers. The tile table expects 80 % for two. A block of eight warps counts as two: it waits at
// its barriers too, but has twice as many products between two of them.
double busy_share(double resident) {
  return std::clamp(0.65 + 0.15 * (resident - 1) - 0.05 * std::max(resident - 2, 0.0), 0.65, 0.9);
}
// Forming dl of a tile: p, a barrier, a division, a barrier.
constexpr double kFormDLogitsLatencies = 3;  // of L2
// Static shared memory of the kernels that have most of it: the weights of the experts and their sums.
constexpr int kTypicalStaticBytes = 576;
constexpr double kRegisters = 65536;
// Of tiles that take about as long, those are chosen that request fewer bytes: the bandwidth of L2 is the least certain
// of the rates, because it depends on which part of L2 a block reads. It costs less than 1 % of the predicted time.
constexpr double kL2Preference = 0.1;
// Bytes in flight that a full bandwidth requires, relative to bandwidth times the latency of an idle memory: latency
// rises with the load, and rings stop at barriers.
constexpr double kLoadedLatency = 2;

// A linear fit to what ptxas reports for sm_90, within 15 registers; `base` depends on the kernel. launch_bounds of two
// blocks limits them to 255.
int registers(int base, int accumulators) { return std::min(255, base + accumulators * 13 / 10); }
constexpr int kShrinkRegisters = 62, kMixRegisters = 92, kDyRegisters = 75, kXRegisters = 95;
// Without those of the loads of B: 16 for each row of C that a thread has in flight.
constexpr int kExpandRegisters = 72;
constexpr int kLargeShrinkRegisters = 55, kLargeStripRegisters = 85;

double ceil_of(double a, double b) { return std::ceil(a / b); }

// Elements per row that a thread block loads at once, four per thread: rows per step, and steps in flight.
struct VectorLoads {
  double step, in_flight, passes;

  VectorLoads(double rows, double columns, int threads = kThreads)
      : step(std::max(1.0, threads / (columns / 4))),
        in_flight(std::clamp(std::floor(rows / step), 1.0, 4.0)),
        passes(ceil_of(rows, step * in_flight)) {}
};

// The loads of multiprocessors that each take the next block of the grid as soon as they have ended one.
class Loads {
 public:
  explicit Loads(double multiprocessors) : multiprocessors_(multiprocessors) { levels_[0] = {0, multiprocessors}; }

  void add(double blocks, double clocks) {
    while (blocks > 0 && clocks > 0) {
      const auto [least, most] = std::minmax_element(levels_, levels_ + count_);
      if (most->clocks - least->clocks <= clocks && blocks >= multiprocessors_) {  // each takes as many
        const double rounds = std::floor(blocks / multiprocessors_);
        for (int i = 0; i < count_; ++i) levels_[i].clocks += rounds * clocks;
        blocks -= rounds * multiprocessors_;
        continue;
      }
      const double taking = std::min(blocks, least->multiprocessors);
      const Level after = {least->clocks + clocks, taking};
      blocks -= taking;
      least->multiprocessors -= taking;
      if (least->multiprocessors == 0)
        *least = after;
      else
        levels_[count_++] = after;
    }
  }
  double most() const { return std::max_element(levels_, levels_ + count_)->clocks; }

 private:
  struct Level {
    double clocks, multiprocessors;
    bool operator<(const Level &other) const { return clocks < other.clocks; }
  };
  const double multiprocessors_;
  // Each kind of blocks divides at most one level.
  Level levels_[Work::kMostKinds + 1] = {};
  int count_ = 1;
};

}  // namespace

Model::Model(const lily_problem &problem, EngineKind engine, bool has_token_weights, const TileRows &rows,
             const Device &device)
    : problem_(problem),
      device_(device),
      rates_(rates_of(device)),
      tokens_(static_cast<double>(problem.tokens)),
      d_in_(static_cast<double>(problem.d_in)),
      d_out_(static_cast<double>(problem.d_out)),
      rank_(static_cast<double>(problem.rank)),
      experts_(static_cast<double>(problem.experts)),
      groups_(static_cast<double>(problem.groups)),
      activation_(static_cast<double>(dtype_bytes(problem.activation_dtype))),
      parameter_(static_cast<double>(dtype_bytes(problem.parameter_dtype))),
      hidden_(static_cast<double>(dtype_bytes(hidden_dtype(problem)))),
      scalar_(rows.scalar_bytes),
      has_token_weights_(has_token_weights),
      routes_(has_router(problem)),
      per_token_(problem.routing == LILY_ROUTING_TOKEN),
      pools_logits_(problem.routing != LILY_ROUTING_TOKEN && problem.pool == LILY_POOL_LOGITS) {
  switch (engine) {
    case EngineKind::kTf32: rate_ = rates_.tf32; break;
    case EngineKind::kExact: rate_ = rates_.fma / 2; break;  // every second instruction loads operands
    default: rate_ = rates_.tensor;
  }
}

Prediction Model::predict(const Work &work) const {
  Prediction result = {};
  const double multiprocessors = device_.multiprocessors;
  const int reserved = device_.compute_major >= 8 ? 1024 : 0;
  const double by_shared = std::floor(static_cast<double>(device_.shared_bytes_per_multiprocessor) /
                                      (work.shared_bytes + kTypicalStaticBytes + reserved));
  const double by_registers = std::floor(kRegisters / (work.threads * ((work.registers + 7) / 8 * 8)));
  const double by_threads = static_cast<double>(device_.threads_per_multiprocessor) / work.threads;
  const double resident = std::max(1.0, std::min({by_shared, by_registers, by_threads}));
  double blocks = 0, multiplying = 0, streaming = 0, serial = 0, in_flight = 0;
  for (int i = 0; i < work.kind_count; ++i) {
    const Blocks &kind = work.kinds[i];
    const auto count = static_cast<double>(kind.count);
    blocks += count;
    if (kind.busy > 0) multiplying += count;
    streaming += count * kind.streaming;
    serial += count * kind.serial;
    in_flight += count * kind.in_flight;
  }
  if (blocks == 0) return result;
  // Blocks without products wait for memory: they take no time from the others.
  const double of_four_warps = static_cast<double>(work.threads) / kThreads;
  const double share = busy_share(std::min(resident, ceil_of(multiplying, multiprocessors)) * of_four_warps);
  Loads loads(multiprocessors);
  for (int i = 0; i < work.kind_count; ++i) {
    const Blocks &kind = work.kinds[i];
    loads.add(static_cast<double>(kind.count), kind.busy / share + (resident == 1 ? kind.exposed : 0));
  }
  const double busiest = loads.most();
  result.resident = static_cast<int>(resident);
  result.waves = blocks / (multiprocessors * resident);
  result.in_flight = in_flight / blocks * std::min(resident, ceil_of(blocks, multiprocessors));
  // A wave takes the latency of its loads, which rises with their bytes in flight: to twice that of an idle memory
  // where they would just fill its bandwidth. Rings that stop at barriers need about twice as much in flight.
  const double filling = device_.dram_bytes_per_second * rates_.dram_latency / device_.clock_hz;
  const auto wave_clocks = [&](double count) {
    return streaming / blocks * (1 + std::min(1.0, count * in_flight / blocks / filling));
  };
  const double at_once = multiprocessors * resident, full = std::floor(result.waves);
  const double rest = blocks - full * at_once;
  double latency = full * (wave_clocks(at_once) + serial / blocks) - serial / blocks;
  if (work.kind_count > 1)
    latency = std::max(result.waves, 1.0) * wave_clocks(std::min(blocks, at_once));
  else if (rest > 0)
    latency += wave_clocks(rest) + serial / blocks;
  const double memory = (work.touched() + work.reread) / (device_.dram_bytes_per_second * kDramShare);
  const double l2 = work.requested / (rates_.l2_bytes * multiprocessors * device_.clock_hz);
  const double on_blocks = std::max(busiest, latency) / device_.clock_hz;
  result.l2_seconds = l2;
  result.busy_seconds = busiest / device_.clock_hz;
  // The limits interfere: a norm instead of the maximum, which exceeds it by at most 44 %.
  const auto cube = [](double value) { return value * value * value; };
  const double bound = std::cbrt(cube(memory) + cube(l2) + cube(on_blocks));
  result.seconds = kLaunchGap + serial / blocks / device_.clock_hz + bound;
  result.compared_seconds = result.seconds + kL2Preference * l2;
  return result;
}

double Model::product_clocks(double m, double n, double k, const Warps &warps, double copied_bytes) const {
  return product_clocks(m, n, k, warps, rate_, copied_bytes);
}

double Model::product_clocks(double m, double n, double k, const Warps &warps, double rate, double copied_bytes) const {
  constexpr double kSharedBytes = 128;  // per clock
  const double fragments = (m * warps.n + n * warps.m) * k * scalar_;
  return std::max(m * n * k / rate, (fragments + copied_bytes) / kSharedBytes);
}

// Clocks of `depth` steps of the summed dimension by a block with `m` rows and `n` columns of the result: warps compute
// whole fragments, and as many of them as the warp of their multiprocessor's quarter with the most.
double Model::large_clocks(const LargeRow &row, double m, double n, double depth) const {
  const Tile &tile = row.tile;
  const double steps = ceil_of(depth, tile.block_k);
  const double copied = (tile.block_m + tile.block_n) * tile.block_k * scalar_;
  const double rows = ceil_of(m, row_unit(row)) * row_unit(row);
  const double columns = ceil_of(n, column_unit(row)) * column_unit(row);
  // A warpgroup reads its rows of a, and all of b.
  const Warps readers = row.has_wgmma ? Warps{static_cast<int>(rows) / kGroupRows, 1} : row.warps;
  return steps * product_clocks(rows, columns, tile.block_k, readers, row.has_wgmma ? rates_.wgmma : rate_, copied);
}

// Tokens whose rows a block copies for a stage.
double Model::rows_copied(const LargeRow &row) const { return std::min<double>(row.tile.block_m, tokens_); }

// Clocks for which a result of m x n elements occupies shared memory and the way to L2 at the end of a block: written
// and read `passes` times with `shared` bytes each, and stored to global memory. The copies of an old output overlap
// with the main loop.
double Model::result_clocks(double m, double n, double passes, double shared, double stored) const {
  constexpr double kSharedBytes = 128, kStoredBytes = 64;  // per clock
  return m * n * (passes * shared / kSharedBytes + stored / kStoredBytes);
}

// The blocks that compute `tiles` tiles of an output with `columns` columns, each of them `tiles_each` in turn. `step`:
// clocks of a step of `depth` at the latency of its loads.
Blocks Model::output_blocks(const LargeRow &row, int64_t tiles, int tiles_each, double columns, double depth,
                            double step) const {
  const Tile &tile = row.tile;
  const double serial = 2 * rates_.dram_latency, steps = ceil_of(depth, tile.block_k);
  const double n = std::min<double>(tile.block_n, columns);
  const double copied = (rows_copied(row) + n) * tile.block_k * scalar_;
  return {ceil_divide(tiles, tiles_each),
          tiles_each * large_clocks(row, tile.block_m, n, depth),
          tiles_each * steps * step,
          serial,
          static_cast<int>((row.stages - 1) * copied),
          serial + tiles_each * result_clocks(tile.block_m, n, 3, scalar_, activation_)};
}

// Bytes of h that one row of u requests, in tiles of `width` columns: a tile within one expert's columns reads as many
// elements, a wider one reads h once.
double Model::form_u_bytes(double width) const {
  const double columns = experts_ * rank_;
  return ceil_of(columns, width) * std::min(rank_, std::min(width, columns)) * hidden_;
}

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
  return rates_.dram_latency * (splits > 1 ? 1 : copies * ceil_of(loads, 8));
}

double Model::d_weights_clocks(double rows, double columns, int threads) const {
  if (!routes_ || has_token_weights_) return 0;
  return ceil_of(experts_, kDWeightExperts) * (VectorLoads(rows, columns, threads).passes + 1) * rates_.l2_latency;
}

// What sum_rows requests, once by each of `blocks` blocks: of its eight loads in flight, those beyond the end of a row
// all read its last element.
void Model::add_sum_rows(Work &work, double rows, double columns, double blocks) const {
  const double beyond = 8 * ceil_of(columns, 8 * kWarp) - ceil_of(columns, kWarp);
  work.reads(4 * rows * columns, blocks);
  work.requested += rows * beyond * kSector * blocks;
}

// Clocks of sum_rows: one row per warp at a time, eight loads per lane in flight.
double Model::sum_rows_clocks(double rows, double columns, int threads) const {
  return ceil_of(rows, threads / kWarp) * ceil_of(columns, 8 * kWarp) * rates_.l2_latency;
}

void Model::add_cast(Work &work, const CastPlan &cast) const {
  const auto elements = static_cast<double>(cast.rows * cast.columns);
  work.reads(elements * cast.from_bytes);
  work.writes(elements * scalar_);
  work.add({cast_blocks(cast.rows, cast.columns), 0, rates_.dram_latency, rates_.l2_latency,
            kThreads * kCastVectors * 4 * cast.from_bytes});
  work.registers = 40;
}

// ---- Forward ----

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

Work Model::shrink(const ShrinkRow &row, int tile_tokens, bool shares_hidden) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile_tokens);
  const int row_tiles = ceil_divide(problem_.rank, tile.block_n);
  work.reads(tokens_ * d_in_ * activation_, row_tiles);
  work.reads(rank_ * d_in_ * scalar_, token_tiles);
  add_hidden_outputs(work, shares_hidden);
  double tail = rates_.dram_latency;
  if (routes_ && row_tiles == 1) {
    add_route(work, token_tiles);
    tail += 3 * rates_.l2_latency + ceil_of(tile_tokens * experts_, row.threads) * rank_ * 2;
  }
  const double steps = ceil_of(d_in_, tile.block_k);
  const double copied = (tile_tokens + std::min<double>(tile.block_n, rank_)) * tile.block_k * scalar_;
  const double step = product_clocks(tile.block_m, tile.block_n, tile.block_k, row.warps, copied);
  work.add({int64_t{token_tiles} * row_tiles, steps * step, steps * rates_.dram_latency / (row.stages - 1), tail,
            static_cast<int>((row.stages - 1) * copied)});
  work.shared_bytes = row.bytes;
  work.registers = registers(kShrinkRegisters, row.accumulators);
  work.threads = row.threads;
  return work;
}

Work Model::large_shrink(const LargeRow &row, int tile_rows, bool shares_hidden, bool casts_a) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile.block_m);
  const int row_tiles = ceil_divide(problem_.rank, tile_rows);
  work.reads(tokens_ * d_in_ * activation_, row_tiles);
  work.reads(rank_ * d_in_ * (casts_a ? scalar_ : parameter_), token_tiles);
  add_hidden_outputs(work, shares_hidden);
  const double steps = ceil_of(d_in_, tile.block_k);
  const double columns = std::min<double>(tile_rows, rank_), serial = 2 * rates_.dram_latency;
  const double copied = (rows_copied(row) + columns) * tile.block_k * scalar_;
  work.add({int64_t{token_tiles} * row_tiles, large_clocks(row, tile.block_m, columns, d_in_),
            steps * rates_.dram_latency / (row.stages - 1), serial, static_cast<int>((row.stages - 1) * copied),
            serial + result_clocks(tile.block_m, columns, 2, sizeof(float), hidden_)});
  work.shared_bytes = row.bytes(0);
  work.registers = registers(kLargeShrinkRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

// A frozen linear layer: to the model, h = x A^T whose rank is the number of columns of y. Its weight is read as it is.
Work Model::linear(const LargeRow &row, int tiles_each) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile.block_m);
  const int column_tiles = ceil_divide(problem_.rank, tile.block_n);
  work.reads(tokens_ * d_in_ * activation_, column_tiles);
  work.reads(rank_ * d_in_ * parameter_, token_tiles);
  add_hidden_outputs(work, true);
  work.add(output_blocks(row, int64_t{token_tiles} * column_tiles, tiles_each, rank_, d_in_,
                         rates_.dram_latency / (row.stages - 1)));
  work.shared_bytes = row.strip_bytes;
  work.registers = registers(kLargeShrinkRegisters, row.accumulators);
  work.threads = row.threads();
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
  work.add({blocks, 0, rounds * rates_.l2_latency, 2 * rates_.dram_latency, kThreads * 80});
  work.registers = 64;
  return work;
}

Work Model::pool(int threads) const {
  constexpr double kLoadsInFlight = 8;
  Work work = {};
  work.reads(4 * tokens_ * experts_);
  work.writes(4 * groups_ * experts_);
  const double rounds = ceil_of(experts_, 4) * ceil_of(tokens_ / groups_, threads * kLoadsInFlight);
  work.add({problem_.groups, 0, rounds * rates_.dram_latency, 3 * rates_.l2_latency,
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
  work.add({blocks, 0, passes * rates_.dram_latency, sum_rows_clocks(experts_ + 1, partial_count, kThreads),
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
  double serial = 2 * rates_.dram_latency, step = rates_.dram_latency / 2;  // two tiles are in flight
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles);
  if (partial_count > 0) {
    add_sum_rows(work, experts_ + 1, partial_count, blocks);
    work.writes(4 * experts_);
  }
  const VectorLoads combined_rows(tile.block_k, tile.block_n, row.threads);
  const double combining = combined_rows.passes * ceil_of(experts_, 4);
  serial += sum_rows_clocks(experts_ + 1, partial_count, row.threads);
  (walk.row_tiles == 1 ? serial : step) += combining * rates_.dram_latency;
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
  // Fragments of u are those of h. Each warp loads the weights of its rows for each expert, 8 of them per wavefront,
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
  // Of operands that have arrived: a barrier, and the first products. If B stays, a tile of tokens is one step.
  constexpr double kStepClocks = 100;
  const double steps = b_stays ? kStepClocks : walk.row_tiles * std::max(kStepClocks, rates_.l2_latency / 2);
  const double of_tokens = (rank_ + tile.block_n) * tile.block_m * scalar_;
  work.add({int64_t{walk.column_tiles} * walk.splits, tiles * busy,
            tiles * std::max(rates_.dram_latency / ahead, steps), 2 * rates_.dram_latency,
            static_cast<int>(ahead * of_tokens)});
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kMixRegisters, row.accumulators);
  return work;
}

Work Model::large_expand(const LargeRow &row, int tiles_each, bool has_c, int partial_count) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double columns = has_token_weights_ ? experts_ * rank_ : rank_;
  const int token_tiles = ceil_divide(problem_.tokens, tile.block_m);
  const int column_tiles = ceil_divide(problem_.d_out, tile.block_n);
  const double blocks = static_cast<double>(token_tiles) * column_tiles;
  const double steps = ceil_of(columns, tile.block_k);
  double step = rates_.dram_latency / (row.stages - 1);
  if (has_c)
    work.reads(rank_ * d_out_ * scalar_, token_tiles);
  else
    work.reads(experts_ * rank_ * d_out_ * (has_token_weights_ ? scalar_ : parameter_), token_tiles);
  if (has_token_weights_) {
    work.read += tokens_ * rank_ * scalar_ + 4 * (per_token_ ? tokens_ : groups_) * experts_;
    work.requested += tokens_ * column_tiles * (form_u_bytes(tile.block_k) + steps * tile.block_k / 128.0 * kSector);
    step = std::max(step, 2 * VectorLoads(rows_copied(row), tile.block_k).passes * rates_.l2_latency);
  } else {
    work.reads(tokens_ * rank_ * scalar_, column_tiles);
    if (!has_c) step += VectorLoads(tile.block_k, tile.block_n).passes * ceil_of(experts_, 4) * rates_.l2_latency;
    if (partial_count > 0) {
      add_sum_rows(work, experts_ + 1, partial_count, has_c ? 1 : ceil_of(blocks, tiles_each));
      work.writes(4 * experts_);
    }
  }
  work.updates(tokens_ * d_out_ * activation_);
  work.add(output_blocks(row, static_cast<int64_t>(blocks), tiles_each, d_out_, columns, step));
  work.shared_bytes = row.strip_bytes;
  work.registers = registers(kLargeStripRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

Work Model::decode_shrink(const ShrinkRow &row) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile.block_m);
  const int row_tiles = ceil_divide(problem_.rank, tile.block_n);
  const double splits = ceil_of(d_in_ * scalar_, kSplitTiles * kTileBytes);
  work.reads(tokens_ * d_in_ * activation_, row_tiles);
  work.reads(rank_ * d_in_ * parameter_, token_tiles);
  work.writes(4 * splits * tokens_ * round_up(problem_.rank, 4));
  const double copied = (std::min<double>(tile.block_m, tokens_) + tile.block_n) * tile.block_k * scalar_;
  const double step = product_clocks(tile.block_m, tile.block_n, tile.block_k, row.warps, copied);
  work.add({static_cast<int64_t>(token_tiles * row_tiles * splits), kSplitTiles * step,
            kSplitTiles * rates_.dram_latency / (row.stages - 1), rates_.dram_latency,
            static_cast<int>((row.stages - 1) * copied)});
  work.shared_bytes = row.bytes;
  work.registers = registers(kShrinkRegisters, row.accumulators);
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
  const double sums = ceil_of(tokens_ * pitch / 4, kThreads) * ceil_of(splits, 8) * rates_.l2_latency;
  const double serial = std::max(0.0, sums + 5 * rates_.l2_latency - rates_.dram_latency);
  const double later = std::max(0, stages.count() - kDecodeStages) / (kDecodeStages - 1.0);
  const double rows = has_token_weights_ ? experts_ * rank_ : rank_;
  const double in_flight = std::min(kDecodeStages * stages.rows() * 1.0, experts_ * rank_) * tile.block_n * parameter_;
  work.add({blocks, product_clocks(tile.block_m, tile.block_n, rows, {1, 4}, 0), (1 + later) * rates_.dram_latency,
            serial, static_cast<int>(in_flight)});
  work.shared_bytes = shared_bytes;
  work.registers = tile.block_m == 16 ? 128 : 164;
  return work;
}

// ---- Backward ----

// dl, and dh from q, of `tiles` tiles of rows x columns elements in `blocks` blocks. Returns the clocks of a block.
double Model::add_completion(Work &work, double tiles, double blocks, double rows, double columns,
                             int d_weights_partials, int threads) const {
  const VectorLoads loads(rows, columns, threads);
  work.writes(tokens_ * rank_ * scalar_);
  if (!routes_) return rates_.l2_latency;
  work.read += experts_ * rank_ * parameter_;
  work.requested +=
      tiles * loads.passes * threads / kWarp * 4 * ceil_of(experts_, 4) * std::min(columns, rank_) * parameter_;
  // With token routing the probabilities are the weights, which the same launch has read.
  if (per_token_) work.requested += 4 * tokens_ * experts_;
  if (per_token_ || !pools_logits_) work.reads(4 * tokens_ * experts_);
  work.writes(4 * tokens_ * experts_);
  double clocks = (kFormDLogitsLatencies + loads.passes * ceil_of(experts_, 4)) * rates_.l2_latency * tiles / blocks;
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
  double tail = rates_.dram_latency;
  work.requested += tokens_ * d_out_ * activation_ * row_tiles;
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
      tail += ceil_of(tile_tokens * experts_, shrink_row.threads / kWarp * 4) * rates_.l2_latency;
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
  work.add({static_cast<int64_t>(blocks * units), steps * step, steps * rates_.dram_latency / (shrink_row.stages - 1),
            tail, static_cast<int>((shrink_row.stages - 1) * copied)});
}

void Model::add_column_blocks(Work &work, const StripRow &row, const Walk &walk, int outer_rows) const {
  const Tile &tile = row.tile;
  const double shrink_rows = has_token_weights_ ? experts_ * rank_ : rank_;
  work.requested += tokens_ * d_out_ * activation_ * walk.row_tiles;
  work.read += tokens_ * rank_ * hidden_;
  double lhs_step = rates_.dram_latency / 2;  // two tiles are in flight
  if (has_token_weights_) {
    work.requested +=
        tokens_ * walk.column_tiles * outer_rows / (experts_ * rank_) *
        (form_u_bytes(tile.block_k) + ceil_of(shrink_rows, tile.block_k) * tile.block_k / 128.0 * kSector);
    lhs_step = std::max(lhs_step, 2 * VectorLoads(tile.block_m, tile.block_k, row.threads).passes * rates_.l2_latency);
    add_gradient(work, outer_rows, d_out_, walk.splits, 1);
  } else {
    work.requested += tokens_ * rank_ * hidden_ * walk.column_tiles;
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
            2 * rates_.dram_latency + d_weights_clocks(tile.block_k, tile.block_n, row.threads),
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
  work.add({grid.blocks(), 0, ceil_of(experts_, 4) * rates_.dram_latency, 2 * rates_.dram_latency, kThreads * 32});
}

Work Model::dy(const StripRow &row, const Walk &walk, const ShrinkRow &shrink_row, int tile_tokens, int outer_rows,
               bool completes) const {
  Work work = {};
  const double dy_bytes = tokens_ * d_out_ * activation_;
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
  work.read = tokens_ * d_out_ * activation_;
  add_column_blocks(work, row, walk, problem_.rank);
  add_combine_blocks(work);
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kDyRegisters, row.outer_accumulators);
  work.threads = row.threads;
  return work;
}

// dy_columns has read dy before: what is still in L2 does not come from memory.
Work Model::dy_tokens(const ShrinkRow &shrink_row, int tile_tokens, int d_weights_partials) const {
  Work work = {};
  const double dy_bytes = tokens_ * d_out_ * activation_;
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
  work.reads(tokens_ * d_out_ * activation_);
  work.reads(tokens_ * rank_ * hidden_, walk.column_tiles);
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
            tiles * (rates_.dram_latency / (row.stages - 1) + rates_.l2_latency),
            combining * rates_.dram_latency + d_weights_clocks(tile.block_k, tile.block_n, kThreads),
            static_cast<int>((row.stages - 1) * copied)});
  work.shared_bytes = row.bytes;
  work.registers = registers(kXRegisters, tile.block_k / 16 * tile.block_n / 8);
  return work;
}

Work Model::d_hidden(int q_partials, int d_weights_partials, const BackwardPlan &plan) const {
  Work work = {};
  const double tiles = ceil_of(tokens_, kHiddenTokens), blocks = ceil_of(tokens_, plan.hidden_tokens);
  work.reads(4 * q_partials * tokens_ * rank_);
  double clocks = ceil_of(q_partials, 4) * rates_.dram_latency * tiles / blocks;
  clocks += add_completion(work, tiles, blocks, kHiddenTokens, std::min(rank_, 128.0), d_weights_partials, kThreads);
  if (has_token_weights_ && routes_) {
    // Each block adds dw of the sequences of its tokens.
    const double sequence = tokens_ / groups_;
    work.reads(4 * tokens_ * experts_, std::max(1.0, blocks * sequence / tokens_));
    clocks += ceil_of(sequence, kThreads * 8) * ceil_of(experts_, 4) * rates_.l2_latency;
  }
  work.add({static_cast<int64_t>(blocks), 0, clocks, 2 * rates_.dram_latency, kThreads * 64});
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
            tiles * (2 * rates_.dram_latency + rates_.l2_latency), rates_.dram_latency, kThreads * 16 * 2});
}

Work Model::x(const StripRow &row, const Walk &walk, const BackwardPlan &plan) const {
  Work work = {};
  const Tile &tile = row.tile;
  const bool is_one = walk.row_tiles == 1;
  const double all_tiles = ceil_of(tokens_, tile.block_m), tiles = ceil_of(walk.split_tokens, tile.block_m);
  work.reads(tokens_ * d_in_ * activation_, walk.row_tiles);
  work.updates(tokens_ * d_in_ * activation_);
  work.reads(rank_ * d_in_ * scalar_, is_one ? walk.splits : all_tiles);
  work.reads(tokens_ * rank_ * scalar_, walk.column_tiles * (is_one ? 1.0 : 2.0));
  add_gradient(work, rank_, d_in_, walk.splits, 1);
  const double depth = std::min<double>(tile.block_k, rank_);
  const double copied = (depth + 3 * tile.block_n) * tile.block_m * scalar_;
  const double expand = product_clocks(tile.block_m, tile.block_n, depth, row.expand_warps, copied);
  const double outer = product_clocks(tile.block_k, tile.block_n, tile.block_m, row.outer_warps, 0);
  const double step = rates_.dram_latency / 2;  // two tiles are in flight
  const double serial = 2 * rates_.dram_latency;
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
      rates_.dram_latency + gradient_clocks(tile, walk.splits, copies) * kThreads / row.threads() + tail;
  const double written = walk.splits > 1 ? 1 : copies;
  work.add({walk.outer_blocks(), large_clocks(row, walk.tile_rows, tile.block_n, walk.split_tokens),
            steps * rates_.dram_latency / (row.stages - 1), serial, static_cast<int>((row.stages - 1) * copied),
            serial + result_clocks(walk.tile_rows, tile.block_n, 1 + written, sizeof(float),
                                   walk.splits > 1 ? sizeof(float) : copies * parameter_)});
}

Work Model::large_dy(const LargeRow &row, const Walk &walk) const {
  Work work = {};
  const Tile &tile = row.tile;
  work.reads(tokens_ * rank_ * hidden_, walk.column_tiles);
  work.reads(tokens_ * d_out_ * activation_, walk.row_tiles);
  add_gradient(work, rank_, d_out_, walk.splits, experts_);
  if (routes_) {
    work.reads(experts_ * rank_ * d_out_ * parameter_, walk.splits);
    work.written += 4 * experts_ * walk.outer_blocks();
    work.requested += kSector * experts_ * walk.outer_blocks();
  }
  add_large_outer(work, row, walk, experts_, d_weights_clocks(walk.tile_rows, tile.block_n, row.threads()));
  add_combine_blocks(work);
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kLargeStripRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

Work Model::large_d_hidden(const LargeRow &row, int tile_rows, int d_weights_partials) const {
  Work work = {};
  const Tile &tile = row.tile;
  const int token_tiles = ceil_divide(problem_.tokens, tile.block_m);
  const int row_tiles = ceil_divide(problem_.rank, tile_rows);
  const double blocks = static_cast<double>(token_tiles) * row_tiles;
  work.reads(tokens_ * d_out_ * activation_, row_tiles);
  work.reads(rank_ * d_out_ * scalar_, token_tiles);
  double tail = 2 * rates_.dram_latency;
  tail += add_completion(work, blocks, blocks, tile.block_m, tile_rows, d_weights_partials, row.threads());
  if (routes_ && !pools_logits_) work.requested += 4 * tokens_ * experts_ * (row_tiles - 1);
  const double steps = ceil_of(d_out_, tile.block_k);
  const double columns = std::min<double>(tile_rows, rank_);
  const double copied = (tile.block_m + columns) * tile.block_k * scalar_;
  work.add({static_cast<int64_t>(blocks), large_clocks(row, tile.block_m, columns, d_out_),
            steps * rates_.dram_latency / (row.stages - 1), tail, static_cast<int>((row.stages - 1) * copied),
            tail + result_clocks(tile.block_m, columns, 2, sizeof(float), scalar_)});
  work.shared_bytes = row.bytes(problem_.experts);
  work.registers = registers(kLargeShrinkRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

Work Model::large_x(const LargeRow &row, const Walk &walk, const BackwardPlan &plan) const {
  Work work = {};
  work.reads(tokens_ * rank_ * scalar_, 2.0 * walk.column_tiles);
  work.reads(tokens_ * d_in_ * activation_, walk.row_tiles);
  work.reads(rank_ * d_in_ * scalar_, walk.token_tiles);
  work.updates(tokens_ * d_in_ * activation_);
  add_gradient(work, rank_, d_in_, walk.splits, 1);
  add_large_outer(work, row, walk, 1, 0);
  work.add(output_blocks(row, int64_t{walk.column_tiles} * walk.token_tiles, walk.tiles_each, d_in_, rank_,
                         rates_.dram_latency / (row.stages - 1)));
  add_router_blocks(work, plan);
  work.shared_bytes = walk.shared_bytes;
  work.registers = registers(kLargeStripRegisters, row.accumulators);
  work.threads = row.threads();
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
  work.add({static_cast<int64_t>(blocks), 0, 0, 4 * rates_.dram_latency, kThreads * 64});
  work.registers = 32;
  return work;
}

}  // namespace lily::cuda
