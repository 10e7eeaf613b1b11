// Writes operands of products in the type of a tile, in rows that begin at multiples of 16 bytes: the main loops then
// copy tiles without conversion. Used for parameters of another type, and for rows that are not aligned. Rounding an
// element here gives the same bits as rounding it where a tile is loaded.
//
// Global memory traffic: each matrix read once and written once.
#pragma once

#include "cuda/tiles/number.cuh"
#include "cuda/tiles/ptx.cuh"
#include "cuda/tiles/shapes.h"

namespace lily::cuda {

struct CastJob {
  Operand from;
  Output to;  // rows are padded to whole vectors, with zeros
  int rows, columns;
  int first_block;
};

struct Cast {
  CastJob jobs[kMostCasts];
  int count;
};

// Loads kCastVectors vectors of four elements, of which thread `thread` of all has every kThreads-th from `first` on.
template <typename T, bool kWhole>
__device__ inline void load_cast(const CastJob &job, int64_t first, int vec4_per_row, float (&value)[kCastVectors][4]) {
  const T *from = static_cast<const T *>(job.from.data);
  const int64_t last = static_cast<int64_t>(job.rows) * vec4_per_row - 1;
  Vec4<T> raw[kCastVectors];
#pragma unroll
  for (int n = 0; n < kCastVectors; ++n) {
    const int64_t i = min(first + n * kThreads, last);
    const int column = static_cast<int>(i % vec4_per_row) * 4;
    raw[n] = load_raw<kWhole>(from + i / vec4_per_row * job.from.pitch + column, job.columns - column);
  }
#pragma unroll
  for (int n = 0; n < kCastVectors; ++n) convert<T>(raw[n], value[n]);
}

template <typename Unused>
__global__ __launch_bounds__(kThreads) void cast(const __grid_constant__ Cast call) {
  wait_for_previous_launch();
  int job_index = 0;
  while (job_index + 1 < call.count && static_cast<int>(blockIdx.x) >= call.jobs[job_index + 1].first_block)
    ++job_index;
  const CastJob &job = call.jobs[job_index];
  const int vec4_per_row = (job.columns + 3) / 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x - job.first_block) * kCastVectors * kThreads + threadIdx.x;
  float value[kCastVectors][4];
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
      store_vec4(AllTypes{}, job.to, i / vec4_per_row, column, column + 4, value[n]);
  }
}

}  // namespace lily::cuda
