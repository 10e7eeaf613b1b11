// Writes operands of products in the type of a tile, in rows that begin at multiples of 16 bytes and end with zeros:
// the main loops copy whole vectors to shared memory, and support no other operands. Used for operands of another type,
// and for rows that are not aligned or do not consist of whole vectors. Further blocks write C, if a later launch reads
// it: one kernel for all engines, whose tile is float32, so that C is rounded as it is written.
//
// It also gathers rows that are scattered in a matrix (ListedRows), and sets such rows to zero.
//
// Global memory traffic: each matrix read once and written once; B read once, and C written once.
#pragma once

#include "cuda/kernels/combine.cuh"

namespace lily::cuda {

struct CastJob {
  Operand from;  // data null: zeros
  Output to;
  int rows, columns;
  int padded;  // columns that are written; those from `columns` on are zero
  ListedRows from_rows;
  const float *scale;  // a factor for each row; may be null
  int first_block;
};

struct Cast {
  Combine combine;
  int combine_column_tiles, combine_blocks;  // the first of the grid
  CastJob jobs[kMostCasts];
  int count;
};

// Loads kCastVectors vectors of four elements: for thread `thread`, every kThreads-th from `first` on.
template <typename T, bool kWhole>
__device__ inline void load_cast(const CastJob &job, int64_t first, int vec4_per_row, float (&value)[kCastVectors][4]) {
  const T *from = static_cast<const T *>(job.from.data);
  const int64_t last = static_cast<int64_t>(job.rows) * vec4_per_row - 1;
  Vec4<T> raw[kCastVectors];
#pragma unroll
  for (int n = 0; n < kCastVectors; ++n) {
    const int64_t i = min(first + n * kThreads, last);
    const int column = static_cast<int>(i % vec4_per_row) * 4;
    // A vector that pads the row is not used.
    const int within = kWhole ? min(column, job.columns - 4) : column;
    raw[n] =
        load_raw<kWhole>(from + job.from_rows.of(i / vec4_per_row) * job.from.pitch + within, job.columns - column);
  }
#pragma unroll
  for (int n = 0; n < kCastVectors; ++n) {
    const int64_t i = min(first + n * kThreads, last);
    const int column = static_cast<int>(i % vec4_per_row) * 4;
    const float scale = job.scale != nullptr ? job.scale[i / vec4_per_row] : 1.0f;
    convert<T>(raw[n], value[n]);
#pragma unroll
    for (int v = 0; v < 4; ++v) value[n][v] = column >= job.columns ? 0.0f : value[n][v] * scale;
  }
}

__device__ __forceinline__ void cast_block(const Cast &call, const Block &at) {
  __shared__ float weights[kMostExperts];
  __shared__ __align__(16) float tile[kCombineRows * kCombineColumns];
  wait_for_previous_launch();
  if (at.x < call.combine_blocks) {
    combine_block<Exact>(call.combine, tile, weights, at.x % call.combine_column_tiles,
                         at.x / call.combine_column_tiles);
    return;
  }
  const int block = at.x - call.combine_blocks;
  int job_index = 0;
  while (job_index + 1 < call.count && block >= call.jobs[job_index + 1].first_block) ++job_index;
  const CastJob &job = call.jobs[job_index];
  const int vec4_per_row = (job.padded + 3) / 4;
  const int64_t first = static_cast<int64_t>(block - job.first_block) * kCastVectors * kThreads + threadIdx.x;
  float value[kCastVectors][4] = {};
  if (job.from.data != nullptr)
    with_type(AllTypes{}, job.from.dtype, [&](auto tag) {
      with_whole(has_vec4(job.from) && job.columns % 4 == 0, [&](auto is_whole) {
        load_cast<decltype(tag), decltype(is_whole)::value>(job, first, vec4_per_row, value);
      });
    });
#pragma unroll
  for (int n = 0; n < kCastVectors; ++n) {
    const int64_t i = first + n * kThreads;
    const int column = static_cast<int>(i % vec4_per_row) * 4;
    if (i < static_cast<int64_t>(job.rows) * vec4_per_row)
      store_vec4(AllTypes{}, job.to, job.to.rows.of(i / vec4_per_row), column, job.padded, value[n]);
  }
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void cast(const __grid_constant__ Cast call) {
  cast_block(call, block_of_grid());
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void cast_list(const __grid_constant__ List<Cast> list) {
  run_part(list, [](const Cast &call, const Block &at) { cast_block(call, at); });
}

}  // namespace lily::cuda
