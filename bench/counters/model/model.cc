#include "model/model.h"

#include <algorithm>
#include <cmath>

#include "core/problem.h"
#include "model/model_terms.h"

namespace lily::cuda {
namespace {

// The share of its rate that a multiprocessor reaches with one, two, and more resident blocks of four warps: a single
// block waits at its barriers. The tile table expects 80 % for two. A block of eight warps counts as two: it waits at
// its barriers too, but has twice as many products between two of them.
double busy_share(double resident) {
  return std::clamp(0.65 + 0.15 * (resident - 1) - 0.05 * std::max(resident - 2, 0.0), 0.65, 0.9);
}
// Static shared memory of the kernels that have most of it: the weights of the experts and their sums.
constexpr int kTypicalStaticBytes = 576;
constexpr double kRegisters = 65536;

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
      constants_(constants_of(device)),
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
    case EngineKind::kTf32: rate_ = constants_.tf32; break;
    case EngineKind::kExact: rate_ = constants_.fma / 2; break;  // every second instruction loads operands
    default: rate_ = constants_.tensor;
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
  // A wave takes the latency of its loads, which rises with their bytes in flight: to twice the latency of an idle
  // memory where they would just fill its bandwidth. Rings that stop at barriers need about twice as much in flight.
  const double filling = device_.dram_bytes_per_second * constants_.dram_latency / device_.clock_hz;
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
  const double memory = (work.touched() + work.reread) / (device_.dram_bytes_per_second * constants_.dram_share);
  const double l2 = work.requested / (constants_.l2_bytes * multiprocessors * device_.clock_hz);
  const double on_blocks = std::max(busiest, latency) / device_.clock_hz;
  result.l2_seconds = l2;
  result.busy_seconds = busiest / device_.clock_hz;
  // The limits interfere: a norm instead of the maximum, which exceeds it by at most 44 %.
  const auto cube = [](double value) { return value * value * value; };
  const double bound = std::cbrt(cube(memory) + cube(l2) + cube(on_blocks));
  result.seconds = constants_.launch_gap + serial / blocks / device_.clock_hz + bound;
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
// whole fragments, and as many of them as the warp of their multiprocessor's quarter with the most. `copied_rows`: of
// the left operand.
double Model::large_clocks(const LargeRow &row, double m, double n, double depth, double copied_rows) const {
  const Tile &tile = row.tile;
  const double steps = ceil_of(depth, tile.block_k);
  const double copied = (copied_rows + tile.block_n) * tile.block_k * scalar_;
  const double rows = ceil_of(m, row_unit(row)) * row_unit(row);
  const double columns = ceil_of(n, column_unit(row)) * column_unit(row);
  // A warpgroup reads its rows of a, and all of b.
  const Warps readers = row.has_wgmma ? Warps{static_cast<int>(rows) / kGroupRows, 1} : row.warps;
  return steps * product_clocks(rows, columns, tile.block_k, readers, row.has_wgmma ? constants_.wgmma : rate_, copied);
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

// What large_product reads, and its main loop, whose blocks have no tail yet. x and the weight have so many bytes per
// element.
Work Model::large_product(const LargeRow &row, const ProductPlan &plan, double depth, double columns, double x_bytes,
                          double weight_bytes) const {
  Work work = {};
  const Tile &tile = row.tile;
  const double token_tiles = ceil_of(tokens_, tile.block_m), column_tiles = ceil_of(columns, plan.tile_columns);
  work.reads(tokens_ * depth * x_bytes, column_tiles);
  work.reads(depth * columns * weight_bytes, token_tiles);
  const double n = std::min<double>(plan.tile_columns, columns), steps = ceil_of(depth, tile.block_k);
  const double copied = (rows_copied(row) + n) * tile.block_k * scalar_;
  work.add({static_cast<int64_t>(ceil_of(token_tiles * column_tiles, plan.tiles_each)),
            plan.tiles_each * large_clocks(row, tile.block_m, n, depth, rows_copied(row)),
            plan.tiles_each * steps * constants_.dram_latency / (row.stages - 1), 2 * constants_.dram_latency,
            static_cast<int>((row.stages - 1) * copied)});
  work.registers = registers(kLargeProductRegisters, row.accumulators);
  work.threads = row.threads();
  return work;
}

// Likewise, with an output.
Work Model::large_output(const LargeRow &row, const ProductPlan &plan, double depth, double columns, double x_bytes,
                         double weight_bytes) const {
  Work work = large_product(row, plan, depth, columns, x_bytes, weight_bytes);
  const double n = std::min<double>(plan.tile_columns, columns);
  work.kinds[0].exposed =
      work.kinds[0].serial + plan.tiles_each * result_clocks(row.tile.block_m, n, 3, scalar_, activation_);
  work.shared_bytes = row.output_bytes;
  return work;
}

// Bytes of h that one row of u requests, in tiles of `width` columns: a tile within one expert's columns reads as many
// elements, a wider one reads h once.
double Model::form_u_bytes(double width) const {
  const double columns = experts_ * rank_;
  return ceil_of(columns, width) * std::min(rank_, std::min(width, columns)) * scalar_;
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
  return ceil_of(rows, threads / kWarp) * ceil_of(columns, 8 * kWarp) * constants_.l2_latency;
}

void Model::add_cast(Work &work, const CastPlan &cast) const {
  const auto rows = static_cast<double>(cast.rows);
  work.reads(rows * static_cast<double>(cast.columns) * cast.from_bytes);
  work.writes(rows * cast.pitch * scalar_);
  work.add({cast_blocks(cast.rows, cast.pitch), 0, constants_.dram_latency, constants_.l2_latency,
            kThreads * kCastVectors * 4 * cast.from_bytes});
  work.registers = 64;
}

}  // namespace lily::cuda
