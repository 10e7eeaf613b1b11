// What plan_forward and plan_backward share.
#pragma once

#include <cmath>
#include <initializer_list>

#include "core/problem.h"
#include "core/workspace.h"
#include "cuda/launch/cost.h"
#include "cuda/launch/walk.h"

namespace lily::cuda {

// Whether each token has its own weights (u_t = w_t (x) h_t), instead of one combined projector C for all tokens.
// Sequences use it too: no C per sequence is formed, rows do not depend on how the batch is divided, and while E r is
// small the traffic is the same.
inline bool has_token_weights(const lily_problem &problem, bool has_offsets) {
  return problem.routing == LILY_ROUTING_TOKEN || problem.routing == LILY_ROUTING_SEQUENCE ||
         (problem.routing == LILY_ROUTING_FIXED && (has_offsets || problem.groups != 1));
}

// Whether the offsets of the sequences select the formulation.
inline bool depends_on_offsets(const lily_problem &problem) {
  return has_token_weights(problem, true) != has_token_weights(problem, false);
}

inline EngineKind engine_kind(const lily_problem &problem, const Device &device) {
  const bool ampere = device.compute_major >= 8;
  if (problem.activation_dtype == LILY_FLOAT32)
    return problem.precision == LILY_PRECISION_TF32 && ampere ? EngineKind::kTf32 : EngineKind::kExact;
  if (problem.precision == LILY_PRECISION_HIGH) return EngineKind::kExact;
  if (problem.activation_dtype == LILY_FLOAT16) return EngineKind::kFloat16;
  // Turing's matrix units do not support bfloat16, and float16 has too small a range: operands are cast to float32.
  return ampere ? EngineKind::kBfloat16 : EngineKind::kExact;
}

inline const TileRows &tile_rows(EngineKind engine, const Device &device) {
  return tile_rows(engine == EngineKind::kExact || engine == EngineKind::kTf32 ? 4 : 2, device.architecture);
}

// The type of an element in a tile.
inline int32_t scalar_dtype(EngineKind engine) {
  switch (engine) {
    case EngineKind::kBfloat16: return LILY_BFLOAT16;
    case EngineKind::kFloat16: return LILY_FLOAT16;
    default: return LILY_FLOAT32;
  }
}

// Elements in 16 bytes: rows of matrices in the workspace begin at multiples of it.
inline int vector_elements(const TileRows &rows) { return 16 / rows.scalar_bytes; }

inline void add(Launches &launches, Step step, const Tile &tile, const Tile &strip_tile, const Grid &grid,
                int shared_bytes, int threads = kThreads) {
  launches.list[launches.count++] = {step, tile, strip_tile, grid, shared_bytes, threads};
}

// Places the next array of `count` elements.
inline Offset take(Workspace &workspace, int64_t count, int element_bytes = sizeof(float)) {
  const auto offset = static_cast<Offset>(workspace.bytes());
  workspace.take<char>(count * element_bytes);
  return offset;
}

// `reads`: the call reads the matrix. The copy has elements of type `scalar`.
inline CastPlan plan_cast(int64_t rows, int64_t columns, int32_t dtype, int32_t scalar, Alignment alignment,
                          bool may_be_unaligned, bool reads) {
  if (rows * columns == 0) return {};
  const int bytes = static_cast<int>(dtype_bytes(dtype)),
            vector = kRowAlignment / static_cast<int>(dtype_bytes(scalar));
  const bool suits = dtype == scalar && columns % vector == 0;
  const bool casts = !suits || alignment == kMisaligned;
  return {rows, columns, bytes, round_up(columns, vector), casts || may_be_unaligned, reads && casts, kAbsent};
}

inline void lay_out_casts(Workspace &workspace, int scalar_bytes, std::initializer_list<CastPlan *> casts) {
  for (CastPlan *cast : casts)
    cast->offset = cast->has_room ? take(workspace, cast->rows * cast->pitch, scalar_bytes) : kAbsent;
}

// `blocks` blocks that combine come first.
inline void add_casts(Launches &launches, std::initializer_list<CastPlan> casts, int64_t blocks = 0) {
  for (const CastPlan &cast : casts)
    if (cast.casts) blocks += cast_blocks(cast.rows, cast.pitch);
  if (blocks > 0) add(launches, Step::kCast, {}, {}, {static_cast<int>(blocks), 1, 1}, 0);
}

// A tile of large_product, and how blocks divide the result into such tiles.
struct ProductChoice {
  const LargeRow *row;
  ProductPlan plan;

  // Blocks for a result with so many rows and columns.
  int64_t blocks(int64_t tokens, int64_t columns) const {
    const int64_t tiles = int64_t{ceil_divide(columns, plan.tile_columns)} * ceil_divide(tokens, row->tile.block_m);
    return ceil_divide(tiles, plan.tiles_each);
  }
};

// What choices and plans of both directions derive from a call.
class Planner {
 protected:
  Planner(const lily_problem &problem, bool has_offsets, const Device &device)
      : problem_(problem),
        device_(device),
        engine_(engine_kind(problem, device)),
        rows_(tile_rows(engine_, device)),
        has_token_weights_(has_token_weights(problem, has_offsets)),
        tokens_(static_cast<int>(problem.tokens)),
        rank_(static_cast<int>(problem.rank)),
        experts_(static_cast<int>(problem.experts)),
        d_out_(static_cast<int>(problem.d_out)),
        routes_(has_router(problem)) {}

  CastPlan cast_parameter(int64_t rows, int64_t columns, Alignment alignment, bool reads) const {
    return cast(rows, columns, problem_.parameter_dtype, alignment, reads);
  }
  // x, dy or h.
  CastPlan cast_activation(int64_t columns, int32_t dtype, Alignment alignment, bool reads) const {
    return cast(problem_.tokens, columns, dtype, alignment, reads);
  }

  bool is_lora() const { return problem_.routing == LILY_ROUTING_NONE; }
  bool is_learned() const { return problem_.routing == LILY_ROUTING_LEARNED; }

  void add_product(Launches &launches, Step step, const ProductChoice &choice, int columns, int shared_bytes) const {
    const auto blocks = static_cast<int>(choice.blocks(tokens_, columns));
    add(launches, step, choice.row->tile, {}, {blocks, 1, 1}, shared_bytes, choice.row->threads());
  }

 private:
  CastPlan cast(int64_t rows, int64_t columns, int32_t dtype, Alignment alignment, bool reads) const {
    return plan_cast(rows, columns, dtype, scalar_dtype(engine_), alignment, problem_.unaligned != 0, reads);
  }

 protected:
  const lily_problem &problem_;
  const Device &device_;
  const EngineKind engine_;
  const TileRows &rows_;
  const bool has_token_weights_;
  const int tokens_, rank_, experts_, d_out_;
  const bool routes_;
};

// The fastest of the candidates that a choice considers; the first of equals.
template <typename Candidate>
struct Fastest {
  Candidate best = {};
  double seconds = 0;
  bool found = false;

  void consider(const Candidate &candidate, double its_seconds) {
    if (found && its_seconds >= seconds) return;
    best = candidate;
    seconds = its_seconds;
    found = true;
  }
};

// The smallest size that is at least `needed`; if there is none, the largest. A tile of a larger rank multiplies zeros.
template <typename Row, typename Size>
int fitting_size(std::span<const Row> rows, int needed, const Size &size_of) {
  int best = 0, largest = 0;
  for (const Row &row : rows) {
    const int size = size_of(row);
    if (size >= needed && (best == 0 || size < best)) best = size;
    largest = std::max(largest, size);
  }
  return best != 0 ? best : largest;
}

inline int fitting_block_k(std::span<const StripRow> rows, int columns) {
  return fitting_size(rows, columns, [](const StripRow &row) { return row.tile.block_k; });
}

inline int fitting_block_n(const TileRows &rows, int needed) {
  return fitting_size(rows.shrink, needed, [](const ShrinkRow &row) { return row.tile.block_n; });
}

// Whether a restriction excludes a tile.
inline bool excludes(const Tile &only, const Tile &tile) { return only.block_m != 0 && !(only == tile); }

// The row of a table with this tile.
template <typename Row>
const Row &row_of(std::span<const Row> rows, const Tile &tile) {
  return *std::find_if(rows.begin(), rows.end(), [&](const Row &row) { return row.tile == tile; });
}

// Shared memory of a launch with router blocks too.
inline int bytes_with_router(int bytes, int router_experts) { return std::max(bytes, router_bytes(router_experts)); }

// What the choosers of both directions have. They choose for the largest M of a bucket (choices.h).
class Chooser : protected Planner {
 protected:
  Chooser(const lily_problem &problem, bool has_offsets, const Device &device, const Restriction *only)
      : Planner(problem, has_offsets, device),
        only_(only != nullptr ? *only : Restriction{}),
        cost_(engine_, rows_.scalar_bytes, device) {}

  // Bytes of M x columns activations, and of B.
  double activations(double columns) const { return tokens_ * columns * dtype_bytes(problem_.activation_dtype); }
  double b_bytes() const { return double(experts_) * rank_ * d_out_ * dtype_bytes(problem_.parameter_dtype); }

  // Rounds of loads in which the threads of a block load rows x columns elements, and combine as many of C.
  static double rounds(double rows, double columns, int threads) { return std::ceil(rows * columns / (16 * threads)); }
  double combining(double rows, double columns, int threads) const {
    return rounds(rows, columns, threads) * std::ceil(experts_ / 4.0);
  }

  // The fastest strips of `columns` columns, of rows of a table with that product, or with both. seconds(row, walk).
  template <typename Seconds>
  Fastest<Walk> choose_strip(std::span<const StripRow> rows, int columns, bool has_outer, bool may_split,
                             const Seconds &seconds) const {
    Fastest<Walk> fastest;
    const WalkShape shape = {rank_, tokens_, columns, experts_};
    const int fitting = fitting_block_k(rows, rank_);
    for (const StripRow &row : rows) {
      if (row.tile.block_k > fitting || excludes(only_.strip, row.tile)) continue;
      for_each_split(tokens_, row.tile.block_m, device_, ceil_divide(columns, row.tile.block_n), [&](int split_tokens) {
        const Walk walk = strip_walk(row, device_, shape, true, has_outer, split_tokens);
        if (walk.column_tiles == 0 || (walk.splits > 1 && !may_split)) return;
        fastest.consider(walk, seconds(row, walk));
      });
    }
    return fastest;
  }

  // ---- Large ranks ----

  // large_product, of sums of `depth` terms.
  Part product_part(const ProductChoice &choice, int64_t depth, int64_t columns) const {
    const auto &[row, plan] = choice;
    const Tile &tile = row->tile;
    const double n = std::min<double>(plan.tile_columns, columns);
    return cost_.product(choice.blocks(tokens_, columns), double(plan.tiles_each) * ceil_divide(depth, tile.block_k),
                         tile.block_m, n, *row, (std::min(tile.block_m, tokens_) + n) * tile.block_k);
  }

  // The fastest tile of large_product for an output with `columns` columns. `memory`: bytes of all operands.
  Fastest<ProductChoice> choose_output(int64_t depth, int64_t columns, double memory) const {
    Fastest<ProductChoice> fastest;
    for (const LargeRow &row : rows_.large) {
      if (excludes(only_.large, row.tile) || row.output_bytes > most_shared_bytes(device_)) continue;
      const int64_t tiles = int64_t{ceil_divide(columns, row.tile.block_n)} * ceil_divide(tokens_, row.tile.block_m);
      for_each_count(row, device_, tiles, [&](int tiles_each) {
        const ProductChoice choice = {&row, {row.tile.block_n, tiles_each}};
        fastest.consider(choice, output_time(choice, depth, columns, memory).seconds);
      });
    }
    return fastest;
  }
  Time output_time(const ProductChoice &choice, int64_t depth, int64_t columns, double memory) const {
    const LargeRow &row = *choice.row;
    return cost_.time(memory, {row.output_bytes, row.threads(), row.accumulators},
                      {product_part(choice, depth, columns)});
  }

  // Likewise for h, or dh with the scratch memory of so many experts.
  Fastest<ProductChoice> choose_hidden(int64_t depth, int experts) const {
    Fastest<ProductChoice> fastest;
    for (const LargeRow &row : rows_.large) {
      if (excludes(only_.large, row.tile) || row.hidden_bytes(experts) > most_shared_bytes(device_)) continue;
      for_each_share(rank_, row.tile.block_n, column_unit(row), [&](int tile_columns) {
        const ProductChoice choice = {&row, {tile_columns, 1}};
        fastest.consider(choice,
                         cost_.seconds(activations(depth), {row.hidden_bytes(experts), row.threads(), row.accumulators},
                                       {product_part(choice, depth, rank_)}));
      });
    }
    return fastest;
  }

  const Restriction only_;
  const Cost cost_;
};

}  // namespace lily::cuda
