// The products of large ranks whose sum is not over tokens, and the products of frozen linear layers. Symbols as in
// docs/math.md.
//
//   c = x w^T    the rows of w are along the sum: h = phi(x A^T), y = x W^T + bias, dh = (s dy C^T + dl R) phi'
//   c = x w      its columns are: y = s h C or s u B, dx = dh A or dy W
//
// y and dx are outputs, which a result may be added to; LoRA's y and dh read b itself, which is C^T. A block owns a
// tile of the result: BLOCK_M tokens, and at most BLOCK_N columns. A row of the result depends neither on the tile nor
// on the other rows. The tiles of a row of tokens follow each other in the grid, so that they read x while it is in L2.
//
// Global memory traffic: x once per tile of columns, and w once per tile of tokens; all but the first time from L2. The
// result is written once, and an output is read once if it accumulates.
#pragma once

#include "cuda/kernels/d_hidden.cuh"
#include "cuda/kernels/large.cuh"

namespace lily::cuda {

enum class Result {
  kOutput,  // y, dx
  kHidden,  // h
  kDHidden  // dh of one pooling group: dw, from which dl follows, is known
};

struct LargeProduct {
  Operand x;       // M x depth
  Operand weight;  // columns x depth; transposed: depth x columns
  int tokens, depth, columns;
  int tile_columns;  // of the result per tile, at most BLOCK_N: equal shares leave no tile nearly empty
  int tiles_each;    // per block; 1 unless the result is an output
  Result result;
  float scale;
  Dropout dropout;  // kHidden: of x; kOutput, transposed: of y
  Operand bias;     // kOutput: 1 x columns; data null: none
  Output y;         // kOutput
  int relu;         // kHidden
  Output saved;     // kHidden: h for backward; may be null
  Output out;       // kHidden: h for the next phase, if that cannot read `saved`; may be null
  DHidden d_hidden;
};

// The scale, and the bias of this lane's columns of the warp's part of a tile, which begins at `column`.
template <typename Tile>
struct Finish {
  float scale;
  float2 bias[Tile::kWarpN];

  __device__ Finish(const LargeProduct &call, int column) : scale(call.scale) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpN; ++j) bias[j] = make_float2(0, 0);
    if (call.bias.data == nullptr) return;
    with_type(AllTypes{}, call.bias.dtype, [&](auto tag) {
      using T = decltype(tag);
      const T *values = static_cast<const T *>(call.bias.data);
      const int first = column + static_cast<int>(threadIdx.x) % 4 * 2;
      T raw[Tile::kWarpN][2];
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j)
#pragma unroll
        for (int v = 0; v < 2; ++v) raw[j][v] = values[min(first + Tile::kStrideN * j + v, call.columns - 1)];
#pragma unroll
      for (int j = 0; j < Tile::kWarpN; ++j) bias[j] = make_float2(to_float(raw[j][0]), to_float(raw[j][1]));
    });
  }

  __device__ void operator()(int n, float &first, float &second) const {
    first = fmaf(scale, first, bias[n / Tile::kStrideN].x);
    second = fmaf(scale, second, bias[n / Tile::kStrideN].y);
  }
};

// Writes a tile of h from the product in shared memory.
template <typename Tile>
__device__ inline void write_hidden(const LargeProduct &call, const float *product, const Window &tile) {
  constexpr int kVec4PerRow = Tile::kBlockN / 4;
  const int padded = call.out.data != nullptr ? padded_end(call.out, tile.column_end, call.columns) : tile.column_end;
  for (int i = threadIdx.x; i < static_cast<int>(tile.row_end - tile.row) * kVec4PerRow; i += Tile::kThreads) {
    const int t = i / kVec4PerRow, n = i % kVec4PerRow * 4;
    if (tile.column + n >= padded) continue;
    float value[4];
    load_vec4(product + t * Tile::kResultPitch + n, 4, true, value);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      value[v] *= call.scale;
      if (call.relu && value[v] < 0) value[v] = 0;  // keeps a NaN
    }
    if (call.saved.data != nullptr)
      store_vec4(typename Tile::Engine::Activations{}, call.saved, tile.row + t, tile.column + n, tile.column_end,
                 value);
    clear_beyond(value, call.columns - tile.column - n);
    if (call.out.data != nullptr)
      store_vec4(Types<typename Tile::Scalar>{}, call.out, tile.row + t, tile.column + n, padded, value);
  }
}

// Writes a tile of dh, and dl with the first columns.
template <typename Tile>
__device__ inline void write_d_hidden(char *shared, const LargeProduct &call, const float *product,
                                      const Window &tile) {
  const DHidden &to = call.d_hidden;
  const int token = static_cast<int>(tile.row), token_end = static_cast<int>(tile.row_end), column = tile.column;
  const DHiddenScratch<Tile::kBlockM> scratch(reinterpret_cast<float *>(shared + Tile::kScratch), to.router.experts);
  find_rows(to, scratch, token, token_end);
  __syncthreads();
  if (to.router.logit_gradient != LogitGradient::kNone) {
    prepare_router_gradient(to.router, scratch);
    form_d_logits(to, scratch, {}, token, token_end, column == 0);
  }
  store_d_hidden<typename Tile::Engine, Tile::kThreads>(
      to, scratch, token, token_end, column, tile.column_end, Tile::kBlockN / 4,
      [&](auto, const RowsInFlight &rows, int k, auto &value) {
        load_product<Tile::kResultPitch>(product + k - column, call.scale, rows, value);
      });
}

// A block computes `tiles_each` tiles in turn, one unless the tile continues: then the copies of the next one are in
// flight while a tile is written.
template <typename Tile, bool kTransposed>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kProductBlocks) void large_product(const __grid_constant__ LargeProduct call) {
  if constexpr (!kHasCode<Tile, Tile::kScratch>) return stop_without_code();
  using Scalar = typename Tile::Scalar;
  constexpr Along kAlongWeight = kTransposed ? Along::kOuter : Along::kDepth;
  extern __shared__ __align__(kLargeAlignment) char large_shared[];
  char *const shared = large_shared;
  const int column_tiles = (call.columns + call.tile_columns - 1) / call.tile_columns;
  const int token_tiles = (call.tokens + Tile::kBlockM - 1) / Tile::kBlockM;
  const int first = static_cast<int>(blockIdx.x) * call.tiles_each;
  const int tiles = min(call.tiles_each, column_tiles * token_tiles - first);
  const auto window = [&](int i) -> Window {
    const int token = (first + i) / column_tiles * Tile::kBlockM;
    const int column = (first + i) % column_tiles * call.tile_columns;
    return {token, min(token + Tile::kBlockM, call.tokens), column, min(column + call.tile_columns, call.columns)};
  };
  // `is_new`: the slot has not been filled before. Later its rows without a token stay as they are, since no element
  // that is written depends on them.
  const auto fill = [&](Scalar *slot, const Window &tile, int step, bool is_new) {
    const int k = step * Tile::kBlockK;
    Scalar *const b = slot + Tile::kA;
    stage<Scalar, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(slot, call.x, {tile.row, tile.row_end, k, call.depth},
                                                                is_new);
    if constexpr (kTransposed)
      for_each_panel<Tile::kBlockN, Tile::kPanelN>([&](int n) {
        stage<Scalar, Tile::kBlockK, Tile::kPanelN, Tile::kThreads>(b + n * Tile::kBlockK, call.weight,
                                                                    {k, call.depth, tile.column + n, tile.column_end});
      });
    else
      stage<Scalar, Tile::kBlockN, Tile::kBlockK, Tile::kThreads>(b, call.weight,
                                                                  {tile.column, tile.column_end, k, call.depth});
  };
  const int steps = large_steps<Tile>(call.depth), count = Tile::kContinues ? tiles : 1;
  wait_for_previous_launch();
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const Window tile = window(i);
    const WarpTile<Tile> warp_tile(static_cast<int>(tile.row_end - tile.row), tile.column_end - tile.column);
    Accumulators<Tile::kWarpM, Tile::kWarpN> sum;
    const auto fill_step = [&](Scalar *slot, int step) {
      if constexpr (Tile::kContinues) {
        // Since the last barrier all threads have written the tile before.
        if (step == Tile::kStages - 1) fill_slice<Tile>(shared, steps, 0, call.y, tile);
        const bool is_new = i == 0 && step < Tile::kStages;
        int next = i;
        if constexpr (Tile::kContinues)
          for (; step >= steps; step -= steps) ++next;
        else if (step >= steps)
          return;
        if (next < count) fill(slot, next == i ? tile : window(next), step, is_new);
      } else if (step < steps) {
        fill(slot, tile, step, step < Tile::kStages);
      } else {
        fill_slice<Tile>(shared, steps, step - steps, call.y, tile);
      }
    };
    // For h the sum runs along the columns of A, for dx along the rows.
    const auto drop_x = [&](Scalar *slot, int step) {
      if (!kTransposed && call.result == Result::kHidden && call.dropout.drops())
        drop<Scalar, Tile::kBlockM, Tile::kBlockK, Tile::kThreads>(
            slot, call.dropout, {tile.row, tile.row_end, step * Tile::kBlockK, call.depth});
    };
    large_sums<Tile, Along::kDepth, kAlongWeight>(sum, shared, i * steps, i > 0, call.depth, warp_tile, fill_step,
                                                  drop_x);
    if (i == count - 1) allow_next_launch();
    if (call.result != Result::kOutput) {
      const float *product = store_result<Tile>(sum, shared, warp_tile);
      if (call.result == Result::kHidden)
        write_hidden<Tile>(call, product, tile);
      else
        write_d_hidden<Tile>(shared, call, product, tile);
      return;
    }
    const Finish<Tile> finish(call, tile.column + warp_tile.n);
    // The output was loaded beside the first step: more steps have waited for it.
    if (!Tile::kContinues || steps < Tile::kStages) {
      copy_wait<0>();
      __syncthreads();
    }
    write_slices<Tile, kTransposed>(sum, shared, steps, warp_tile, call.y, call.dropout, tile, finish);
  }
}

}  // namespace lily::cuda
