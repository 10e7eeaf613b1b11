// Parameter gradients: sums over tokens, with partial sums that are added in a fixed order. Symbols as in docs/math.md.
#pragma once

#include "cuda/kernels/combine.cuh"
#include "cuda/kernels/mixture.cuh"

namespace lily::cuda {

// Destination of a product z of a strip kernel. If tokens are not split, the result is written to `out`; otherwise each
// split writes a partial sum, and `reduce` adds them in order.
struct OuterTarget {
  Output out;              // may be null
  float *partials;         // splits x rows x pitch; null: the result is written to `out`
  int64_t partial_stride;  // elements from one split to the next
  int partial_pitch;
  int rows, columns;  // of z
  int tile_rows;      // per block, at most kResultRows
  int transposed;     // the gradient is z^T (LoRA's b)
  float scale;
  const float *weights;  // E; `out` then has E times the rows: dB_e += w_e z. Null: out is z
  int experts;
};

// Scale and stride of each expert: the factor of its gradient, and the elements from its gradient to the next.
struct ExpertScales {
  float scale;
  const float *weights;  // null: there is one expert, and its weight is 1
  int experts;
  int64_t stride;

  __device__ float of(int expert) const { return scale * (weights == nullptr ? 1.0f : weights[expert]); }
};

// log2 of a power of two.
template <int kSize>
constexpr int kLog = 1 + kLog<kSize / 2>;
template <>
constexpr int kLog<1> = 0;

// A tile of z in shared memory, as the gradient has it: element (row, column) of the gradient is `row_step` and
// `column_step` floats from the first one. For LoRA's b rows of the gradient are columns of z.
struct GradientTile {
  const float *z;
  int row_step, column_step;
  int log_columns;  // there are 1 << log_columns columns
};

// Writes a tile of z, scaled, or adds it to the gradient of each expert: out rows [row, row_end), columns [column,
// column_end). A thread has four columns of every step-th row. The vectors of the old gradient of
// kRowsInFlight rows of kExpertsInFlight experts, eight in all, are loaded before the first is added. Every vector is
// aligned, and inside the window or outside of it. The type of the gradient matters where elements are loaded and
// stored only.
template <typename Tile>
__device__ inline void write_gradient(const GradientTile &tile, const Output &out, const Window &window,
                                      const ExpertScales &scales) {
  using Parameters = typename Tile::Engine::Parameters;
  constexpr int kMostInFlight = Tile::kResultRows * Tile::kBlockN / 4 / Tile::kThreads;
  constexpr int kRowsInFlight = kMostInFlight < 1 ? 1 : kMostInFlight < 8 ? kMostInFlight : 8;
  constexpr int kExpertsInFlight = 8 / kRowsInFlight;
  const int log_vec4 = tile.log_columns - 2, step = Tile::kThreads >> log_vec4;
  const int c = (static_cast<int>(threadIdx.x) & ((1 << log_vec4) - 1)) * 4;
  const int rows = window.column + c >= window.column_end ? 0 : static_cast<int>(window.row_end - window.row);
#pragma unroll 1
  for (int expert = 0; expert < scales.experts; expert += kExpertsInFlight) {
    const int64_t from = expert * scales.stride + window.row * out.pitch + window.column + c;
    float scale[kExpertsInFlight] = {};
#pragma unroll
    for (int e = 0; e < kExpertsInFlight; ++e)
      if (expert + e < scales.experts) scale[e] = scales.of(expert + e);
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) >> log_vec4; first < rows; first += kRowsInFlight * step) {
      float sum[kExpertsInFlight][kRowsInFlight][4] = {};
      if (out.accumulate) {
        with_type(Parameters{}, out.dtype, [&](auto tag) {
          using T = decltype(tag);
          const T *to = static_cast<const T *>(out.data) + from;
          Vec4<T> old[kExpertsInFlight][kRowsInFlight] = {};
#pragma unroll
          for (int e = 0; e < kExpertsInFlight; ++e) {
            if (expert + e >= scales.experts) break;
#pragma unroll
            for (int i = 0; i < kRowsInFlight; ++i) {
              const int r = first + i * step;
              // Beyond the end a row of this thread: other threads write theirs.
              old[e][i] = load_raw<true>(to + e * scales.stride + (r < rows ? r : first) * out.pitch, 4);
            }
          }
#pragma unroll
          for (int e = 0; e < kExpertsInFlight; ++e)
#pragma unroll
            for (int i = 0; i < kRowsInFlight; ++i) convert<T>(old[e][i], sum[e][i]);
        });
      }
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        const int r = min(first + i * step, rows - 1);
        float value[4];
        if (tile.column_step == 1) {
          load_vec4(tile.z + r * tile.row_step + c, 4, true, value);
        } else {
#pragma unroll
          for (int v = 0; v < 4; ++v) value[v] = tile.z[r + (c + v) * tile.column_step];
        }
#pragma unroll
        for (int e = 0; e < kExpertsInFlight; ++e)
#pragma unroll
          for (int v = 0; v < 4; ++v) sum[e][i][v] = value[v] * scale[e] + sum[e][i][v];
      }
      with_type(Parameters{}, out.dtype, [&](auto tag) {
        using T = decltype(tag);
        T *to = static_cast<T *>(out.data) + from;
#pragma unroll
        for (int e = 0; e < kExpertsInFlight; ++e)
#pragma unroll
          for (int i = 0; i < kRowsInFlight; ++i) {
            const int r = first + i * step;
            if (expert + e < scales.experts && r < rows)
              store_global_vector(to + e * scales.stride + r * out.pitch, pack_vec4<T>(sum[e][i]));
          }
      });
    }
  }
}

// Likewise for a gradient whose rows are not aligned, element by element.
template <typename Tile>
__device__ inline void write_gradient_elements(const GradientTile &tile, const Output &out, const Window &window,
                                               const ExpertScales &scales) {
  using Parameters = typename Tile::Engine::Parameters;
  constexpr int kLoadsInFlight = 8;
  const int log_span = min(tile.log_columns, kLog<Tile::kThreads>), step = Tile::kThreads >> log_span;
  const int own = static_cast<int>(threadIdx.x) & ((1 << log_span) - 1);
  const int rows = static_cast<int>(window.row_end - window.row), columns = window.column_end - window.column;
#pragma unroll 1
  for (int expert = 0; expert < scales.experts; ++expert) {
    const float scale = scales.of(expert);
#pragma unroll 1
    for (int c = own; c < columns; c += 1 << log_span) {
#pragma unroll 1
      for (int first = static_cast<int>(threadIdx.x) >> log_span; first < rows; first += kLoadsInFlight * step) {
        const int64_t from = expert * scales.stride + (window.row + first) * out.pitch + window.column + c;
        float sum[kLoadsInFlight] = {};
        if (out.accumulate) {
          with_type(Parameters{}, out.dtype, [&](auto tag) {
            using T = decltype(tag);
            const T *to = static_cast<const T *>(out.data) + from;
            T old[kLoadsInFlight] = {};
#pragma unroll
            for (int n = 0; n < kLoadsInFlight; ++n) {
              if (first + n * step < rows) old[n] = *to;
              to += step * out.pitch;
            }
#pragma unroll
            for (int n = 0; n < kLoadsInFlight; ++n) sum[n] = to_float(old[n]);
          });
        }
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) {
          const int r = min(first + n * step, rows - 1);
          sum[n] = tile.z[r * tile.row_step + c * tile.column_step] * scale + sum[n];
        }
        with_type(Parameters{}, out.dtype, [&](auto tag) {
          using T = decltype(tag);
          T *to = static_cast<T *>(out.data) + from;
#pragma unroll
          for (int n = 0; n < kLoadsInFlight; ++n) {
            if (first + n * step < rows) *to = from_float<T>(sum[n]);
            to += step * out.pitch;
          }
        });
      }
    }
  }
}

template <typename Tile>
__device__ inline void finish_outer(const float *z, const OuterTarget &target, const StripIndex &at) {
  if (target.out.data == nullptr && target.partials == nullptr) return;
  const int row = at.row_tile * target.tile_rows, column = at.column_tile * Tile::kBlockN;
  const int row_end = min(row + target.tile_rows, target.rows),
            column_end = min(column + Tile::kBlockN, target.columns);
  Output out = target.out;
  const bool has_partials = target.partials != nullptr;
  if (has_partials)
    out = {target.partials + at.split * target.partial_stride, target.partial_pitch, LILY_FLOAT32, 1, 0};
  const bool is_one = has_partials || target.weights == nullptr;
  const ExpertScales scales = {target.scale, is_one ? nullptr : target.weights, is_one ? 1 : target.experts,
                               target.rows * out.pitch};
  const Window window =
      target.transposed ? Window{column, column_end, row, row_end} : Window{row, row_end, column, column_end};
  const GradientTile tile = target.transposed ? GradientTile{z, 1, Tile::kResultPitch, kLog<Tile::kResultRows>}
                                              : GradientTile{z, Tile::kResultPitch, 1, kLog<Tile::kBlockN>};
  if (out.aligned16 && (window.column_end - window.column) % 4 == 0)
    write_gradient<Tile>(tile, out, window, scales);
  else
    write_gradient_elements<Tile>(tile, out, window, scales);
}

// dw_e = <B_e, D>, as one partial sum per block that holds a tile of D.
struct DWeights {
  Experts experts;
  float *partials;  // E x count, out; null: dw is not required
  int count;
};

// This thread's shares of <B_e, D> of kDWeightExperts experts from `expert` on. The loads of kRowsInFlight rows of all
// of them are in flight.
template <typename Tile, bool kWhole>
__device__ inline void add_d_weights(const Experts &experts, int expert, const float *z, int row, int row_end,
                                     int column, float (&sum)[kDWeightExperts]) {
  constexpr int kVec4PerRow = Tile::kBlockN / 4, kStep = Tile::kThreads / kVec4PerRow;
  constexpr int kRowsInFlight = kTileLoadsInFlight<kWhole, Tile::kResultRows, kStep>;
  const int n = static_cast<int>(threadIdx.x) % kVec4PerRow * 4, valid = experts.columns - column - n;
  const int rows = valid <= 0 ? 0 : row_end - row;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < rows; first += kRowsInFlight * kStep) {
    float b[kDWeightExperts * kRowsInFlight][4];
    load_vectors<kWhole>(
        typename Tile::Engine::Parameters{}, experts.b, column + n, valid,
        [&](int m) {
          const int expert_row = min(expert + m / kRowsInFlight, experts.experts - 1) * experts.rank + row;
          return expert_row + min(first + m % kRowsInFlight * kStep, rows - 1);
        },
        b);
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const int k = first + i * kStep;
      float d[4];
      load_vec4(z + k * Tile::kResultPitch + n, 4, true, d);
#pragma unroll
      for (int j = 0; j < kDWeightExperts; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[j] = k < rows ? fmaf(b[j * kRowsInFlight + i][v], d[v], sum[j]) : sum[j];
    }
  }
}

// Computes this block's partial sums of dw from its tile of D, whose scale and rows `target` has, and writes
// them as column `index`. The tile is at the start of shared memory, followed by kDWeightExperts sums per warp.
template <typename Tile>
__device__ inline void form_d_weights(char *shared, const DWeights &d_weights, const StripIndex &at,
                                      const OuterTarget &target, int index) {
  if (d_weights.partials == nullptr) return;
  const Experts &experts = d_weights.experts;
  const auto *z = reinterpret_cast<const float *>(shared);
  auto *sums = reinterpret_cast<float *>(shared) + Tile::kResultRows * Tile::kResultPitch;
  const int row = at.row_tile * target.tile_rows, column = at.column_tile * Tile::kBlockN;
  const int row_end = min(row + target.tile_rows, experts.rank);
  const int n = static_cast<int>(threadIdx.x) % (Tile::kBlockN / 4) * 4;
  const bool whole = has_vec4(experts.b) && experts.columns - column - n >= 4;
  for (int expert = 0; expert < experts.experts; expert += kDWeightExperts) {
    float sum[kDWeightExperts] = {};
    with_whole(whole, [&](auto is_whole) {
      add_d_weights<Tile, decltype(is_whole)::value>(experts, expert, z, row, row_end, column, sum);
    });
#pragma unroll
    for (int j = 0; j < kDWeightExperts; ++j) {
      sum[j] = sum_over_warp(sum[j]);
      if (threadIdx.x % kWarp == 0) sums[j * Tile::kWarps + threadIdx.x / kWarp] = sum[j];
    }
    __syncthreads();
    if (threadIdx.x < min(kDWeightExperts, experts.experts - expert)) {
      const float *of_warp = sums + threadIdx.x * Tile::kWarps;
      float total = of_warp[0];
#pragma unroll
      for (int warp = 1; warp < Tile::kWarps; ++warp) total += of_warp[warp];
      d_weights.partials[static_cast<int64_t>(expert + threadIdx.x) * d_weights.count + index] = target.scale * total;
    }
    __syncthreads();
  }
}

// A gradient whose partial sums `reduce` adds.
struct ReduceJob {
  const float *partials;
  int64_t partial_stride;
  int partial_count, partial_pitch;
  int rows, columns;
  float scale;
  const float *weights;  // as in OuterTarget
  int experts;
  Output out;
  int first_block;
};

constexpr int kMostJobs = 3;  // dB, dA, dR

struct Reduce {
  ReduceJob jobs[kMostJobs];
  int count, blocks;        // of the jobs
  MixtureGradient mixture;  // the last blocks
};

// Four elements of a gradient, of one expert or of several. The old gradients of the first kExpertsInFlight experts are
// loaded before the partial sums are added.
template <typename T, bool kWhole, bool kHasExperts>
__device__ inline void reduce_elements(const ReduceJob &job, int row, int column) {
  constexpr int kExpertsInFlight = kHasExperts ? 4 : 1;
  const int valid = job.columns - column, experts = kHasExperts ? job.experts : 1;
  T *out = static_cast<T *>(job.out.data) + row * job.out.pitch + column;
  const int64_t expert_stride = job.rows * job.out.pitch;
  const float *partials = job.partials + static_cast<int64_t>(row) * job.partial_pitch + column;
  float sum[4];
#pragma unroll 1
  for (int first = 0; first < experts; first += kExpertsInFlight) {
    Vec4<T> old[kExpertsInFlight] = {};
    if (job.out.accumulate) {
#pragma unroll
      for (int i = 0; i < kExpertsInFlight; ++i)
        old[i] = load_raw<kWhole>(out + min(first + i, experts - 1) * expert_stride, valid);
    }
    if (first == 0) add_partials<kWhole>(sum, partials, job.partial_stride, job.partial_count, valid);
#pragma unroll
    for (int i = 0; i < kExpertsInFlight; ++i) {
      if (first + i >= experts) break;
      const float scale = kHasExperts ? job.scale * job.weights[first + i] : job.scale;
      float value[4];
      convert<T>(old[i], value);
#pragma unroll
      for (int v = 0; v < 4; ++v) value[v] = fmaf(sum[v], scale, value[v]);
      store_vec4(out + (first + i) * expert_stride, valid, kWhole, value);
    }
  }
}

// Backward, last phase: each thread adds four elements over all partial sums.
__device__ __forceinline__ void reduce_block(const Reduce &call, const Block &at) {
  wait_for_previous_launch();
  if (at.x >= call.blocks) return mixture_gradient_block(call.mixture, at.x - call.blocks);
  int job_index = 0;
  while (job_index + 1 < call.count && at.x >= call.jobs[job_index + 1].first_block) ++job_index;
  const ReduceJob &job = call.jobs[job_index];
  const int vec4_per_row = (job.columns + 3) / 4;
  const int64_t i = static_cast<int64_t>(at.x - job.first_block) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(job.rows) * vec4_per_row) return;
  const int row = static_cast<int>(i / vec4_per_row), column = static_cast<int>(i % vec4_per_row) * 4;
  with_type(AllTypes{}, job.out.dtype, [&](auto tag) {
    with_whole(job.partial_pitch % 4 == 0 && job.out.aligned16 && job.columns - column >= 4, [&](auto is_whole) {
      constexpr bool kWhole = decltype(is_whole)::value;
      if (job.weights == nullptr)
        reduce_elements<decltype(tag), kWhole, false>(job, row, column);
      else
        reduce_elements<decltype(tag), kWhole, true>(job, row, column);
    });
  });
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void reduce(const __grid_constant__ Reduce call) {
  reduce_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void reduce_list(const __grid_constant__ List<Reduce> list) {
  run_part(list, [](const Reduce &call, const Block &at) { reduce_block(call, at); });
}

// db_e (+)= sum of w_ge D_g over the layers, in order, and over each layer's groups, in order. See lily_fold in the C
// ABI.
struct FoldLayer {
  const float *partial;
  const float *weights;
  int64_t groups;
};

constexpr int kFoldLayers = 128;  // fits into the 4 KiB limit on kernel parameters

struct Fold {
  FoldLayer layers[kFoldLayers];
  int count;
  int rank, experts, columns;
  Output db;
};

template <typename Unused>
__global__ __launch_bounds__(kThreads) void fold(const __grid_constant__ Fold call) {
  wait_for_previous_launch();
  const int vec4_per_row = (call.columns + 3) / 4;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(call.experts) * call.rank * vec4_per_row) return;
  const int64_t row = i / vec4_per_row;
  const int column = static_cast<int>(i % vec4_per_row) * 4;
  const int e = static_cast<int>(row / call.rank), k = static_cast<int>(row % call.rank);
  float sum[4] = {0, 0, 0, 0};
  for (int l = 0; l < call.count; ++l) {
    const FoldLayer &layer = call.layers[l];
    const bool aligned = call.columns % 4 == 0 && reinterpret_cast<uintptr_t>(layer.partial) % 16 == 0;
    const auto add = [&](int64_t index, float weight) {
      float value[4];
      load_vec4(layer.partial + (index * call.rank + k) * call.columns + column, call.columns - column, aligned, value);
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] = fmaf(weight, value[v], sum[v]);
    };
    if (layer.weights == nullptr) {
      add(e, 1.0f);
    } else {
      for (int64_t g = 0; g < layer.groups; ++g) add(g, layer.weights[g * call.experts + e]);
    }
  }
  store_vec4(call.db, row, column, call.columns, sum);
}

}  // namespace lily::cuda
