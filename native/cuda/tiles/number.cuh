// Matrices in global memory of any type of the ABI. All arithmetic is float32; elements are converted as they are
// loaded and stored.
//
// The type is uniform over a launch, but if a load and its conversion are inside a branch, the next load waits for
// both. Loops over loads therefore branch on the type outside the loop (`with_type`), load raw elements first and
// convert them afterwards, and discard surplus elements by a select: with a branch the compiler would move the load
// into it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

#include "lily/backend.h"

namespace lily::cuda {

// A row-major input matrix.
struct Operand {
  const void *data;
  int64_t pitch;      // elements from one row to the next
  int32_t dtype;      // lily_dtype
  int32_t aligned16;  // every row begins at a multiple of 16 bytes
  int32_t aligned8;   // ... of 8 bytes: rows of h are only 8-byte aligned when the rank is, for example, 140
};

// The rows of a matrix that belong to a call of a list. Their numbers, which are on the device, have not been checked:
// they are clamped.
struct ListedRows {
  const int32_t *index;  // null: row t is row t
  int all;               // rows of the matrix

  __device__ int64_t of(int64_t t) const { return index == nullptr ? t : min(max(index[t], 0), all - 1); }
};

// A row-major output matrix, overwritten or accumulated into.
struct Output {
  void *data;
  int64_t pitch;
  int32_t dtype;
  int32_t aligned16;
  int32_t accumulate;
  int32_t stages;   // the old contents can be copied to a tile: of its type, aligned, and rows of whole vectors
  ListedRows rows;  // of y and dx

  __host__ __device__ Operand operand() const { return {data, pitch, dtype, aligned16, aligned16}; }
};

// Where the columns of a tile end that ends at `end` of a matrix with `columns` columns: with the last one, the zeros
// are written that pad the rows of operands in the workspace to whole vectors.
__device__ inline int padded_end(const Output &matrix, int end, int columns) {
  return end >= columns ? static_cast<int>(matrix.pitch) : end;
}

// Sets the elements of a vector beyond its first `valid` ones, which lie beyond a row, to zero: a product of padding is
// not zero if the other operand is infinite.
__device__ inline void clear_beyond(float (&value)[4], int valid) {
#pragma unroll
  for (int v = 0; v < 4; ++v)
    if (v >= valid) value[v] = 0;
}

template <typename T>
constexpr int32_t kDtype = LILY_FLOAT32;
template <>
constexpr int32_t kDtype<__nv_bfloat16> = LILY_BFLOAT16;
template <>
constexpr int32_t kDtype<__half> = LILY_FLOAT16;

__host__ __device__ inline int dtype_bytes(int32_t dtype) { return dtype == LILY_FLOAT32 ? 4 : 2; }

// A list of element types. Those that the kernels of an engine support are members of it (matrix.cuh).
template <typename... T>
struct Types {};
using AllTypes = Types<float, __nv_bfloat16, __half>;

// Calls visit with a value of the element type, which must be one of the list.
template <typename First, typename... Rest, typename Visit>
__device__ inline void with_type(Types<First, Rest...>, int32_t dtype, const Visit &visit) {
  if constexpr (sizeof...(Rest) > 0) {
    if (dtype != kDtype<First>) {
      with_type(Types<Rest...>{}, dtype, visit);
      return;
    }
  }
  visit(First{});
}

// Calls visit with `whole` as a compile-time constant: loops over whole 4-element vectors keep several loads in flight,
// the others one.
template <typename Visit>
__device__ inline void with_whole(bool whole, const Visit &visit) {
  if (whole)
    visit(std::true_type{});
  else
    visit(std::false_type{});
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }

template <typename T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

// Two and four adjacent elements; 16-bit elements are packed into one and two 32-bit words.
__device__ inline float2 unpack(uint32_t word, __nv_bfloat16) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162 &>(word));
}
__device__ inline float2 unpack(uint32_t word, __half) {
  return __half22float2(reinterpret_cast<const __half2 &>(word));
}

template <typename T>
__device__ inline uint32_t pack(float first, float second);
template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float first, float second) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<const uint32_t &>(two);
}
template <>
__device__ inline uint32_t pack<__half>(float first, float second) {
  const __half2 two = __floats2half2_rn(first, second);
  return reinterpret_cast<const uint32_t &>(two);
}

template <typename T>
__device__ inline float2 load_pair(const T *source) {
  if constexpr (sizeof(T) == 4)
    return *reinterpret_cast<const float2 *>(source);
  else
    return unpack(*reinterpret_cast<const uint32_t *>(source), T{});
}

template <typename T>
__device__ inline void store_pair(T *target, float first, float second) {
  if constexpr (sizeof(T) == 4)
    *reinterpret_cast<float2 *>(target) = make_float2(first, second);
  else
    *reinterpret_cast<uint32_t *>(target) = pack<T>(first, second);
}

// Four elements in their memory representation.
template <typename T>
using Vec4 = std::conditional_t<sizeof(T) == 4, float4, uint2>;

// kWhole: all four elements exist and are aligned to the vector's size. Otherwise only the first `valid` elements are
// loaded; the others are zero.
template <bool kWhole, typename T>
__device__ inline Vec4<T> load_raw(const T *source, int valid) {
  if constexpr (kWhole) return *reinterpret_cast<const Vec4<T> *>(source);
  Vec4<T> raw = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < valid) reinterpret_cast<T *>(&raw)[i] = source[i];
  return raw;
}

template <typename T>
__device__ inline void convert(const Vec4<T> &raw, float (&value)[4]) {
  if constexpr (sizeof(T) == 4) {
    value[0] = raw.x, value[1] = raw.y, value[2] = raw.z, value[3] = raw.w;
  } else {
    const float2 low = unpack(raw.x, T{}), high = unpack(raw.y, T{});
    value[0] = low.x, value[1] = low.y, value[2] = high.x, value[3] = high.y;
  }
}

// Loads vectors of a matrix of any type of the list, from `column` on: vector n is in row row_of(n). All loads are
// issued before the first is converted; the code that uses the values is the same for all types.
template <bool kWhole, typename... T, int kCount, typename RowOf>
__device__ inline void load_vectors(Types<T...> types, const Operand &matrix, int column, int valid,
                                    const RowOf &row_of, float (&value)[kCount][4]) {
  with_type(types, matrix.dtype, [&](auto tag) {
    using From = decltype(tag);
    const From *from = static_cast<const From *>(matrix.data) + column;
    Vec4<From> raw[kCount];
#pragma unroll
    for (int n = 0; n < kCount; ++n) raw[n] = load_raw<kWhole>(from + row_of(n) * matrix.pitch, valid);
#pragma unroll
    for (int n = 0; n < kCount; ++n) convert<From>(raw[n], value[n]);
  });
}

// `aligned`: the elements are aligned to the vector's size.
template <typename T>
__device__ inline void load_vec4(const T *source, int valid, bool aligned, float (&value)[4]) {
  convert<T>(aligned && valid >= 4 ? load_raw<true>(source, valid) : load_raw<false>(source, valid), value);
}

template <typename T>
__device__ inline void store_vec4(T *target, int valid, bool aligned, const float (&value)[4]) {
  if (aligned && valid >= 4) {
    if constexpr (sizeof(T) == 4)
      *reinterpret_cast<float4 *>(target) = make_float4(value[0], value[1], value[2], value[3]);
    else
      *reinterpret_cast<uint2 *>(target) = make_uint2(pack<T>(value[0], value[1]), pack<T>(value[2], value[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < valid) target[i] = from_float<T>(value[i]);
}

// Whether every 4-element vector of a row is aligned to its size.
__device__ inline bool has_vec4(const Operand &matrix) {
  return matrix.dtype == LILY_FLOAT32 ? matrix.aligned16 : matrix.aligned8;
}

// Loads elements column .. column + 3 of a row; column is a multiple of 4. Elements at or beyond `columns` are zero.
__device__ inline void load_vec4(const Operand &matrix, int64_t row, int column, int columns, float (&value)[4]) {
  const int64_t offset = row * matrix.pitch + column;
  const int valid = columns - column;
  if (matrix.dtype == LILY_FLOAT32)
    load_vec4(static_cast<const float *>(matrix.data) + offset, valid, matrix.aligned16, value);
  else if (matrix.dtype == LILY_BFLOAT16)
    load_vec4(static_cast<const __nv_bfloat16 *>(matrix.data) + offset, valid, matrix.aligned16, value);
  else
    load_vec4(static_cast<const __half *>(matrix.data) + offset, valid, matrix.aligned16, value);
}

// Stores the elements, or adds them to the output and rounds once.
__device__ inline void store_vec4(const Output &matrix, int64_t row, int column, int columns, float (&value)[4]) {
  const int64_t offset = row * matrix.pitch + column;
  const int valid = columns - column;
  if (matrix.accumulate) {
    float old[4];
    load_vec4(matrix.operand(), row, column, columns, old);
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] += old[i];
  }
  if (matrix.dtype == LILY_FLOAT32)
    store_vec4(static_cast<float *>(matrix.data) + offset, valid, matrix.aligned16, value);
  else if (matrix.dtype == LILY_BFLOAT16)
    store_vec4(static_cast<__nv_bfloat16 *>(matrix.data) + offset, valid, matrix.aligned16, value);
  else
    store_vec4(static_cast<__half *>(matrix.data) + offset, valid, matrix.aligned16, value);
}

// Stores the elements; the output has one of the types, and is not accumulated into.
template <typename... T>
__device__ inline void store_vec4(Types<T...> types, const Output &matrix, int64_t row, int column, int columns,
                                  const float (&value)[4]) {
  with_type(types, matrix.dtype, [&](auto tag) {
    store_vec4(static_cast<decltype(tag) *>(matrix.data) + row * matrix.pitch + column, columns - column,
               matrix.aligned16, value);
  });
}

}  // namespace lily::cuda
