// Copies tiles from global to shared memory and back. kBlockThreads: the threads of the block, all of which take part.
#pragma once

#include "cuda/tiles/matrix.cuh"

namespace lily::cuda {

// A region of an operand: rows [row, row_end), columns [column, column_end).
struct Window {
  int64_t row, row_end;
  int column, column_end;
};

// Loads the 16 bytes of a row that begin at `column`; elements from `valid` on are zero.
template <typename T>
__device__ inline uint4 load_vector(const Operand &source, int64_t row, int column, int valid) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const T *from = static_cast<const T *>(source.data) + row * source.pitch + column;
  if (valid == kVector) return *reinterpret_cast<const uint4 *>(from);
  uint4 vector = make_uint4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    if (i < valid) reinterpret_cast<T *>(&vector)[i] = from[i];
  return vector;
}

// For Turing, which has no asynchronous copies: each thread has four loads in flight.
template <typename T, int kRows, int kColumns, int kBlockThreads>
__device__ inline void stage_through_registers(T *tile, const Operand &source, const Window &window) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T)), kVectors = kColumns / kVector, kLoadsInFlight = 4;
#pragma unroll 1
  for (int first = threadIdx.x; first < kRows * kVectors; first += kLoadsInFlight * kBlockThreads) {
    uint4 vector[kLoadsInFlight];
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const int i = first + n * kBlockThreads;
      const int64_t row = window.row + i / kVectors;
      const int column = window.column + i % kVectors * kVector;
      const bool inside = i < kRows * kVectors && row < window.row_end;
      vector[n] = load_vector<T>(source, row, column, inside ? min(max(window.column_end - column, 0), kVector) : 0);
    }
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
      const int i = first + n * kBlockThreads;
      if (i < kRows * kVectors)
        store_vector(tile + place<T, kColumns>(i / kVectors, i % kVectors * kVector), vector[n]);
    }
  }
}

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

// Fills a tile from elements of any type of the list at any alignment, with single loads of which a thread has eight in
// flight. The plan avoids it where it can: it is for old outputs and views whose rows are not aligned, and for ragged
// rows that are converted. The code of a kernel has it for each operand, so that it is short rather than fast.
template <typename T, int kRows, int kColumns, int kBlockThreads, typename... S>
__device__ inline void stage_elements(Types<S...> types, T *tile, const Operand &source, const Window &window) {
  constexpr int kSpan = kColumns < kBlockThreads ? kColumns : kBlockThreads, kStep = kBlockThreads / kSpan;
  constexpr int kLoadsInFlight = kRows / kStep < 8 ? kRows / kStep : 8;
  static_assert(kRows % (kLoadsInFlight * kStep) == 0);
#pragma unroll 1
  for (int c = static_cast<int>(threadIdx.x) % kSpan; c < kColumns; c += kSpan) {
    const int rows =
        window.column + c >= window.column_end ? 0 : static_cast<int>(min(window.row_end - window.row, int64_t{kRows}));
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) / kSpan; first < kRows; first += kLoadsInFlight * kStep) {
      T value[kLoadsInFlight] = {};
      with_type(types, source.dtype, [&](auto tag) {
        using From = decltype(tag);
        const From *from =
            static_cast<const From *>(source.data) + (window.row + first) * source.pitch + window.column + c;
        From raw[kLoadsInFlight] = {};
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) {
          if (first + n * kStep < rows) raw[n] = *from;
          from += kStep * source.pitch;
        }
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n)
          if constexpr (std::is_same_v<From, T>)
            value[n] = raw[n];
          else
            value[n] = from_float<T>(to_float(raw[n]));
      });
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) tile[place<T, kColumns>(first + n * kStep, c)] = value[n];
    }
  }
}

// Copies a thread's elements of a tile: four columns of every kStep-th row, converted to T. kLoadsInFlight vectors are
// loaded before the first is converted. Every vector lies inside the window or outside of it.
template <typename T, int kRows, int kColumns, int kBlockThreads, typename... S>
__device__ inline void stage_vec4(Types<S...> types, T *tile, const Operand &source, const Window &window) {
  constexpr int kVec4PerRow = kColumns / 4, kStep = kBlockThreads / kVec4PerRow,
                kLoadsInFlight = kTileLoadsInFlight<true, kRows, kStep>;
  const int c = static_cast<int>(threadIdx.x) % kVec4PerRow * 4;
  const int rows =
      window.column + c >= window.column_end ? 0 : static_cast<int>(min(window.row_end - window.row, int64_t{kRows}));
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < kRows; first += kLoadsInFlight * kStep) {
    float value[kLoadsInFlight][4] = {};
    if (rows > 0) {
      with_type(types, source.dtype, [&](auto tag) {
        using From = decltype(tag);
        const From *from = static_cast<const From *>(source.data) + window.row * source.pitch + window.column + c;
        Vec4<From> raw[kLoadsInFlight];
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n)
          raw[n] = load_raw<true>(from + min(first + n * kStep, rows - 1) * source.pitch, 4);
#pragma unroll
        for (int n = 0; n < kLoadsInFlight; ++n) convert<From>(raw[n], value[n]);
      });
    }
#pragma unroll
    for (int n = 0; n < kLoadsInFlight; ++n) {
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (first + n * kStep >= rows) value[n][v] = 0;
      store_tile(tile + place<T, kColumns>(first + n * kStep, c), value[n]);
    }
  }
}

// How the threads of a block divide a tile into vectors of kVector elements: each has the columns from `column` on of
// every kStep-th row from `row` on. What it adds to an address is then the same from each of its rows to the next.
template <typename T, int kRows, int kColumns, int kBlockThreads, int kVector>
struct VectorsOfThread {
  static constexpr int kVectors = kColumns / kVector, kStep = kBlockThreads / kVectors;
  static constexpr int kCount = (kRows + kStep - 1) / kStep;
  static_assert(kBlockThreads % kVectors == 0 && (kRows % kStep == 0 || kCount == 1));

  int row = static_cast<int>(threadIdx.x) / kVectors, column = static_cast<int>(threadIdx.x) % kVectors * kVector;

  // In a tile of fewer rows some threads have none.
  __device__ bool none() const { return kRows < kStep && row >= kRows; }

  // The offset of vector n in a tile: the permutation of `place` is that of the first one, if kStep rows are a period.
  __device__ int place_of(int n) const {
    if constexpr (kStep % kPermutationRows == 0)
      return place<T, kColumns>(row, column) + n * kStep * kColumns;
    else
      return place<T, kColumns>(row + n * kStep, column);
  }
};

// An asynchronous copy of all 16 bytes or of none is one instruction, one of some of them is many: tiles whose rows end
// within a vector, or begin at multiples of 8 bytes only, have a loop of their own, which is short rather than fast.
// The other one is not unrolled further: large_product would need more registers than there are. `clears`: as in
// stage_converted.
template <typename T, int kRows, int kColumns, int kBlockThreads>
__device__ inline void stage_copies(T *tile, const Operand &source, const Window &window, bool clears) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const VectorsOfThread<T, kRows, kColumns, kBlockThreads, kVector> own;
  if (own.none()) return;
  const int columns = min(window.column_end - window.column, kColumns);
  const int inside = static_cast<int>(min(window.row_end - window.row, int64_t{kRows}));
  const int rows = own.column < columns ? inside : 0;
  const int count = clears ? own.kCount : (inside - own.row + own.kStep - 1) / own.kStep;
  // Where nothing is copied the address is not used.
  const T *from =
      static_cast<const T *>(source.data) + (window.row + own.row) * source.pitch + window.column + own.column;
  const int64_t step = own.kStep * source.pitch;
  if (source.aligned16 && columns % kVector == 0) {
#pragma unroll 2
    for (int n = 0; n < count; ++n, from += step)
      copy_async(tile + own.place_of(n), from, own.row + n * own.kStep < rows ? 16 : 0);
    return;
  }
  const int bytes = min(columns - own.column, kVector) * static_cast<int>(sizeof(T));
#pragma unroll 1
  for (int n = 0; n < count; ++n, from += step) {
    T *target = tile + place<T, kColumns>(own.row + n * own.kStep, own.column);
    const int valid = own.row + n * own.kStep < rows ? bytes : 0;
    copy_async_8(target, from, min(valid, 8));
    copy_async_8(target + kVector / 2, from + kVector / 2, max(valid - 8, 0));
  }
}

// Whether stage_whole can fill a tile of this type from the operand.
template <typename T>
__device__ inline bool can_stage_whole(const Operand &source) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return source.aligned16;
#else
  return source.aligned8;
#endif
}

template <typename T, int kRows, int kColumns, int kBlockThreads>
__device__ inline void stage_whole(T *tile, const Operand &source, const Window &window, bool clears) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  stage_through_registers<T, kRows, kColumns, kBlockThreads>(tile, source, window);
#else
  stage_copies<T, kRows, kColumns, kBlockThreads>(tile, source, window, clears);
#endif
}

// Fills a kRows x kColumns tile from an operand of any type of the list; elements outside the window are zero, unless
// `clears` is false: then rows outside of it may stay as they are, which with few tokens are most of a tile. If it is
// of the tile's type and rows begin at multiples of 8 bytes the copies are asynchronous, except on Turing: the caller
// commits and waits.
template <typename T, int kRows, int kColumns, int kBlockThreads, typename... S>
__device__ inline void stage_converted(Types<S...> types, T *tile, const Operand &source, const Window &window,
                                       bool clears = true) {
  constexpr bool kConverts = sizeof...(S) > 1;
  if ((!kConverts || source.dtype == kDtype<T>) && can_stage_whole<T>(source))
    stage_whole<T, kRows, kColumns, kBlockThreads>(tile, source, window, clears);
  else if (kConverts && has_vec4(source) && (window.column_end - window.column) % 4 == 0)
    stage_vec4<T, kRows, kColumns, kBlockThreads>(types, tile, source, window);
  else
    stage_elements<T, kRows, kColumns, kBlockThreads>(types, tile, source, window);
}

// Likewise from an operand of the tile's type.
template <typename T, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void stage(T *tile, const Operand &source, const Window &window) {
  stage_converted<T, kRows, kColumns, kBlockThreads>(Types<T>{}, tile, source, window);
}

template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void stage_activations(typename Engine::Scalar *tile, const Operand &source, const Window &window,
                                         bool clears = true) {
  stage_converted<typename Engine::Scalar, kRows, kColumns, kBlockThreads>(typename Engine::Activations{}, tile, source,
                                                                           window, clears);
}

// For parameters that are not cast first: in decoding, which would take one more launch, and in frozen linear layers.
template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void stage_parameters(typename Engine::Scalar *tile, const Operand &source, const Window &window) {
  stage_converted<typename Engine::Scalar, kRows, kColumns, kBlockThreads>(typename Engine::Parameters{}, tile, source,
                                                                           window);
}

// Fills kRows rows, `pitch` elements apart and not permuted, with the first `columns` elements of rows [row, row_end)
// that begin at multiples of 16 bytes; the rest of the 16 bytes of the last element, and further rows, are zero. The
// copies are asynchronous, except on Turing.
template <typename T, int kRows>
__device__ inline void stage_rows(T *tile, int pitch, const Operand &source, int64_t row, int64_t row_end,
                                  int columns) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const int vectors = (columns + kVector - 1) / kVector;
  const int rows = static_cast<int>(min(row_end - row, int64_t{kRows}));
  const T *from = static_cast<const T *>(source.data) + row * source.pitch;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
    const int r = i / vectors, c = i % vectors * kVector;
    store_vector(tile + r * pitch + c, load_vector<T>(source, row + r, c, r < rows ? min(columns - c, kVector) : 0));
  }
#else
  // As in stage_copies.
  if (columns % kVector == 0) {
#pragma unroll 4
    for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
      const int r = i / vectors, c = i % vectors * kVector;
      copy_async(tile + r * pitch + c, from + r * source.pitch + c, r < rows ? 16 : 0);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * vectors; i += kThreads) {
      const int r = i / vectors, c = i % vectors * kVector;
      copy_async(tile + r * pitch + c, from + r * source.pitch + c,
                 r < rows ? min(columns - c, kVector) * static_cast<int>(sizeof(T)) : 0);
    }
  }
#endif
}

// Writes the elements of the tile that lie inside the window.
template <typename Engine, int kRows, int kColumns, int kBlockThreads = kThreads>
__device__ inline void unstage(const typename Engine::Scalar *tile, const Output &target, const Window &window) {
  using T = typename Engine::Scalar;
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kVectors = kColumns / kVector;
  const bool copies = target.dtype == kDtype<T> && target.aligned16;
  for (int i = threadIdx.x; i < kRows * kVectors; i += kBlockThreads) {
    const int r = i / kVectors, c = i % kVectors * kVector;
    const int64_t row = window.row + r;
    const int column = window.column + c;
    if (row >= window.row_end || column >= window.column_end) continue;
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
