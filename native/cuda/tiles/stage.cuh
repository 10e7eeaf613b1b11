// Copies tiles from global to shared memory and back. kBlockThreads: the threads of the block, which all take part.
#pragma once

#include "cuda/kernels/list.cuh"
#include "cuda/tiles/dropout.cuh"
#include "cuda/tiles/matrix.cuh"

namespace lily::cuda {

// A region of an operand: rows [row, row_end), columns [column, column_end).
struct Window {
  int64_t row, row_end;
  int column, column_end;
};

// Four elements as a vector of 16 or 8 bytes.
template <typename T>
__device__ inline auto pack_vec4(const float (&value)[4]) {
  if constexpr (sizeof(T) == 4)
    return make_uint4(__float_as_uint(value[0]), __float_as_uint(value[1]), __float_as_uint(value[2]),
                      __float_as_uint(value[3]));
  else
    return make_uint2(pack<T>(value[0], value[1]), pack<T>(value[2], value[3]));
}

// Stores four elements to a tile in shared memory.
template <typename T>
__device__ inline void store_tile(T *target, const float (&value)[4]) {
  store_vector(target, pack_vec4<T>(value));
}

// 4-element loads in flight per thread in a tile of kRows rows, if all threads together load kStep rows at once.
template <bool kWhole, int kRows, int kStep>
constexpr int kTileLoadsInFlight = !kWhole || kRows <= kStep ? 1
                                   : kRows / kStep < 4       ? kRows / kStep
                                                             : 4;

// How the threads of a block divide a tile into vectors of 16 bytes: each has the columns from `column` on of every
// kStep-th row from `row` on. What it adds to an address is then the same from each of its rows to the next.
template <typename T, int kRows, int kColumns, int kBlockThreads>
struct VectorsOfThread {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kVectors = kColumns / kVector, kStep = kBlockThreads / kVectors;
  static constexpr int kCount = (kRows + kStep - 1) / kStep;
  static_assert(kBlockThreads % kVectors == 0 && (kRows % kStep == 0 || kCount == 1));

  int row = static_cast<int>(threadIdx.x) / kVectors, column = static_cast<int>(threadIdx.x) % kVectors * kVector;

  // In a tile of fewer rows some threads have none.
  __device__ bool none() const { return kRows < kStep && row >= kRows; }

  // The offset of vector n in a tile: the permutation of `place` repeats if kStep rows are a period.
  __device__ int place_of(int n) const {
    if constexpr (kStep % kPermutationRows == 0)
      return place<T, kColumns>(row, column) + n * kStep * kColumns;
    else
      return place<T, kColumns>(row + n * kStep, column);
  }
};

// Fills a kRows x kColumns tile from an operand of the tile's type whose rows begin at multiples of 16 bytes and have
// whole vectors: `cast` has made a copy of any other (kernels/cast.cuh). Vectors outside the window are zero; one that
// begins inside is copied whole, with the zeros that follow the row. With `clears` false rows outside may stay as they
// are: with few tokens these are most of a tile. The copies are asynchronous, except on Turing: the caller commits and
// waits.
template <typename T, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void stage(T *tile, const Operand &source, const Window &window, bool clears = true) {
  const VectorsOfThread<T, kRows, kColumns, kBlockThreads> own;
  if (own.none()) return;
  const int inside = static_cast<int>(min(window.row_end - window.row, int64_t{kRows}));
  const int rows = window.column + own.column < window.column_end ? inside : 0;
  // Where nothing is copied the address is not used.
  const T *from =
      static_cast<const T *>(source.data) + (window.row + own.row) * source.pitch + window.column + own.column;
  const int64_t step = own.kStep * source.pitch;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  constexpr int kLoadsInFlight = own.kCount < 4 ? own.kCount : 4;
#pragma unroll 1
  for (int first = 0; first < own.kCount; first += kLoadsInFlight) {
    uint4 vector[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i, from += step)
      vector[i] =
          own.row + (first + i) * own.kStep < rows ? *reinterpret_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) store_vector(tile + own.place_of(first + i), vector[i]);
  }
#else
  // Not unrolled further: large_product would need more registers than there are.
  const int count = clears ? own.kCount : (inside - own.row + own.kStep - 1) / own.kStep;
#pragma unroll 2
  for (int n = 0; n < count; ++n, from += step)
    copy_async(tile + own.place_of(n), from, own.row + n * own.kStep < rows ? 16 : 0);
#endif
}

// Sets the dropped elements to zero of a tile of x that `stage` has filled with the same arguments. Each thread has the
// vectors that it has copied: it calls this when they have arrived, before the barrier that shows them to the others.
template <typename T, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void drop(T *tile, const Dropout &dropout, const Window &window) {
  const VectorsOfThread<T, kRows, kColumns, kBlockThreads> own;
  const int column = window.column + own.column;
  if (own.none() || column >= window.column_end) return;
  const int rows = static_cast<int>(min(window.row_end - window.row, int64_t{kRows}));
  const DropoutMask mask(dropout);
#pragma unroll 1
  for (int n = 0; own.row + n * own.kStep < rows; ++n) {
    T *const vector = tile + own.place_of(n);
    const uint4 kept = mask.kept<T>(window.row + own.row + n * own.kStep, column);
    store_vector(vector, select(kept, *reinterpret_cast<const uint4 *>(vector), make_uint4(0, 0, 0, 0)));
  }
}

// Fills kRows rows, `pitch` elements apart and not permuted, with the first `columns` elements, and the rest of the
// last 16 bytes, of rows [row, row_end) of such an operand; further rows are zero.
template <typename T, int kRows>
__device__ inline void stage_rows(T *tile, int pitch, const Operand &source, int64_t row, int64_t row_end,
                                  int columns) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const int vectors = (columns + kVector - 1) / kVector;
  const int rows = static_cast<int>(min(row_end - row, int64_t{kRows}));
  const T *from = static_cast<const T *>(source.data) + row * source.pitch;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
    const int r = i / vectors, c = i % vectors * kVector;
    const T *vector = from + r * source.pitch + c;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    store_vector(tile + r * pitch + c, r < rows ? *reinterpret_cast<const uint4 *>(vector) : make_uint4(0, 0, 0, 0));
#else
    copy_async(tile + r * pitch + c, vector, r < rows ? 16 : 0);
#endif
  }
}

// ---- An output that is added to: y, dx ----

// Fills a tile with the old contents of the output, if it can be copied (Output::stages).
template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void stage_old(typename Engine::Scalar *tile, const Output &target, const Window &window) {
  if (target.accumulate && target.stages)
    stage<typename Engine::Scalar, kRows, kColumns, kBlockThreads>(tile, target.operand(), window);
}

// Otherwise fills it where the result is added, with up to eight elements in flight per thread. Ends with a barrier
// then.
template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void load_old(typename Engine::Scalar *tile, const Output &target, const Window &window) {
  using T = typename Engine::Scalar;
  constexpr int kAll = kRows * kColumns / kBlockThreads, kLoadsInFlight = kAll < 8 ? kAll : 8;
  if (!target.accumulate || target.stages) return;
  with_type(typename Engine::Activations{}, target.dtype, [&](auto tag) {
    using From = decltype(tag);
    const From *from = static_cast<const From *>(target.data);
#pragma unroll 1
    for (int first = threadIdx.x; first < kRows * kColumns; first += kLoadsInFlight * kBlockThreads) {
      From raw[kLoadsInFlight];
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int i = first + n * kBlockThreads;
        const int64_t row = min(window.row + i / kColumns, window.row_end - 1);
        raw[n] = from[target.rows.of(row) * target.pitch + min(window.column + i % kColumns, window.column_end - 1)];
      }
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        const int i = first + n * kBlockThreads, r = i / kColumns, c = i % kColumns;
        const bool inside = window.row + r < window.row_end && window.column + c < window.column_end;
        tile[place<T, kColumns>(r, c)] = from_float<T>(inside ? to_float(raw[n]) : 0.0f);
      }
    }
  });
  __syncthreads();
}

// As `unstage`, of dx with dropout: a dropped element keeps its old bits, or is zero if the output is overwritten.
template <typename Engine, int kRows, int kColumns, int kBlockThreads>
__device__ inline void unstage_kept(const typename Engine::Scalar *tile, const Output &target, const Window &window,
                                    const Dropout &dropout) {
  using T = typename Engine::Scalar;
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kVectors = kColumns / kVector;
  const bool copies = target.dtype == kDtype<T> && target.aligned16;
  const DropoutMask mask(dropout);
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kVectors; i += kBlockThreads) {
    const int r = i / kVectors, c = i % kVectors * kVector;
    const int column = window.column + c;
    const int64_t row = window.row + r;
    if (row >= window.row_end || column >= window.column_end) continue;
    const T *from = tile + place<T, kColumns>(r, c);
    if (copies && column + kVector <= window.column_end) {
      auto *to = reinterpret_cast<uint4 *>(static_cast<T *>(target.data) + row * target.pitch + column);
      const uint4 old = target.accumulate ? *to : make_uint4(0, 0, 0, 0);
      *to = select(mask.kept<T>(row, column), *reinterpret_cast<const uint4 *>(from), old);
      continue;
    }
    const uint4 kept = mask.kept<T>(row, column);
#pragma unroll 1
    for (int offset = 0; offset < kVector; offset += 4) {
      float value[4];
      load_vec4(from + offset, 4, true, value);
      with_type(typename Engine::Activations{}, target.dtype, [&](auto tag) {
        using To = decltype(tag);
        To *to = static_cast<To *>(target.data) + row * target.pitch + column + offset;
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          const bool keeps = is_kept<T>(kept, offset, v);
          if (column + offset + v < window.column_end && (keeps || !target.accumulate))
            to[v] = from_float<To>(keeps ? value[v] : 0.0f);
        }
      });
    }
  }
}

// Writes the elements of the tile that lie inside the window. kDrops: there may be dropout, in calls whose rows are not
// scattered.
template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads, bool kDrops = false>
__device__ inline void unstage(const typename Engine::Scalar *tile, const Output &target, const Window &window,
                               const Dropout &dropout = {}) {
  if (kDrops && dropout.drops()) {
    unstage_kept<Engine, kRows, kColumns, kBlockThreads>(tile, target, window, dropout);
    return;
  }
  using T = typename Engine::Scalar;
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kVectors = kColumns / kVector;
  const bool copies = target.dtype == kDtype<T> && target.aligned16;
  for (int i = threadIdx.x; i < kRows * kVectors; i += kBlockThreads) {
    const int r = i / kVectors, c = i % kVectors * kVector;
    const int column = window.column + c;
    if (window.row + r >= window.row_end || column >= window.column_end) continue;
    const int64_t row = target.rows.of(window.row + r);
    const T *from = tile + place<T, kColumns>(r, c);
    if (copies && column + kVector <= window.column_end) {
      *reinterpret_cast<uint4 *>(static_cast<T *>(target.data) + row * target.pitch + column) =
          *reinterpret_cast<const uint4 *>(from);
    } else {
#pragma unroll 1
      for (int offset = 0; offset < kVector && column + offset < window.column_end; offset += 4) {
        float value[4];
        load_vec4(from + offset, 4, true, value);
        store_vec4(typename Engine::Activations{}, target, row, column + offset, window.column_end, value);
      }
    }
  }
}

}  // namespace lily::cuda
