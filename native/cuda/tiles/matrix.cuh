// Products of tiles in shared memory by one warp, on three engines with the same accumulator layout:
//
//   Tensor<T>  matrix units, 16-bit operands, float32 accumulation
//   Tf32       matrix units, float32 tiles rounded to TF32 as fragments are loaded
//   Exact      float32 FMAs: full precision, on every GPU
//
// The accumulator has the layout of mma.m16n8: of the 16 x 8 fragment (i, j), lane l holds elements 2 * (l % 4) and 2 *
// (l % 4) + 1 of rows l / 4 and l / 4 + 8. The code around a product is therefore the same for all engines.
//
// Rows of a tile are stored without padding, so that contiguous copies have no bank conflicts. Within each 128 bytes
// the 16-byte vectors are permuted (XOR with the index of the 128 bytes), so that 8 rows of one column of vectors have
// no bank conflicts either.
#pragma once

#include "cuda/tiles/number.cuh"
#include "cuda/tiles/ptx.cuh"
#include "cuda/tiles/table.h"

namespace lily::cuda {

// `Parameters` are the types that parameters and their gradients may have, `Activations` the types of x, y, h and their
// gradients. The operands of products are of type Scalar wherever the plan has them cast first (kernels/cast.cuh).
template <typename T>
struct Tensor {
  using Scalar = T;
  using Parameters = Types<float, T>;
  using Activations = Types<T>;
  static constexpr int kStepK = 16;  // of one step along the summed dimension
};

struct Tf32 {
  using Scalar = float;
  using Parameters = Types<float>;
  using Activations = Types<float>;
  static constexpr int kStepK = 8;
};

struct Exact {
  using Scalar = float;
  using Parameters = AllTypes;
  using Activations = AllTypes;
  static constexpr int kStepK = 4;
};

// The virtual architecture for which the compiler translates kernels.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr int kArchitecture = kHopperArchitecture;
#elif defined(__CUDA_ARCH__)
constexpr int kArchitecture = __CUDA_ARCH__ / 10;
#else
constexpr int kArchitecture = 90;  // the host's pass, which has no kernels
#endif

// Whether the kernels of an engine have code for it: Turing's matrix units support neither bfloat16 nor TF32.
template <typename Engine>
constexpr bool kHasEngine =
    kArchitecture >= 80 || !(std::is_same_v<Engine, Tf32> || std::is_same_v<Engine, Tensor<__nv_bfloat16>>);

// Whether a kernel that needs at least kBytes of shared memory for this row of the table has code.
template <typename Tile, int kBytes>
constexpr bool kHasCode = kHasEngine<typename Tile::Engine> && has_code<Tile>(kArchitecture, kBytes);

// All that a kernel without code does. No plan has one: the launch must fail, and not leave its results as they were.
__device__ inline void stop_without_code() { __trap(); }

// Offset of element (row, column) in a tile of kColumns columns. The elements of an aligned 16-byte vector stay
// contiguous.
template <typename T, int kColumns>
__device__ inline int place(int row, int column) {
  constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(T));
  static_assert(kRowBytes >= 32 && (kRowBytes & (kRowBytes - 1)) == 0);
  constexpr int kRowsPer128Bytes = kRowBytes < 128 ? 128 / kRowBytes : 1;
  constexpr int kVectors = kRowBytes < 128 ? kRowBytes / 16 : 8;
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  // Division of unsigned numbers by a power of two takes one instruction.
  return row * kColumns +
         (column ^ static_cast<int>(static_cast<unsigned>(row) / kRowsPer128Bytes % kVectors * kVector));
}

// Rows after which the permutation of `place` repeats in every tile.
constexpr int kPermutationRows = 8;

template <int kM, int kN>
using Accumulators = float[kM][kN][4];

template <int kM, int kN>
__device__ inline void clear(Accumulators<kM, kN> &c) {
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int j = 0; j < kN; ++j)
#pragma unroll
      for (int v = 0; v < 4; ++v) c[i][j][v] = 0.0f;
}

template <int kM, int kN>
__device__ inline void add(Accumulators<kM, kN> &c, const Accumulators<kM, kN> &other) {
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int j = 0; j < kN; ++j)
#pragma unroll
      for (int v = 0; v < 4; ++v) c[i][j][v] += other[i][j][v];
}

// Layout of an operand's tile.
enum class Along {
  kDepth,  // the summed dimension is contiguous: tile rows are rows of a, columns of b
  kOuter   // the other dimension is contiguous: tile rows are steps along the summed dimension
};

// ---- Fragments ----

template <typename Engine>
struct Fragments;

template <typename T>
struct Fragments<Tensor<T>> {
  using A = uint32_t[4];
  using B = uint32_t[2];

  // Loads rows m .. m + 15, depth k .. k + kStepK - 1.
  template <Along kAlong, int kColumns>
  __device__ static void load_a(A &a, const T *tile, int m, int k) {
    const int lane = threadIdx.x % kWarp;
    if constexpr (kAlong == Along::kDepth)
      load_matrices(a, tile + place<T, kColumns>(m + lane % 16, k + lane / 16 * 8));
    else
      load_matrices_transposed(a, tile + place<T, kColumns>(k + lane % 8 + lane / 16 * 8, m + lane / 8 % 2 * 8));
  }

  // Loads kCount fragments of 8 columns, kStride columns apart, from column n on; one ldmatrix instruction loads two.
  template <Along kAlong, int kColumns, int kStride, int kCount>
  __device__ static void load_b(B (&b)[kCount], const T *tile, int n, int k) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int j = 0; j + 1 < kCount; j += 2) {
      uint32_t raw[4];
      if constexpr (kAlong == Along::kDepth)
        load_matrices(
            raw, tile + place<T, kColumns>(n + kStride * j + lane % 8 + lane / 16 * kStride, k + lane / 8 % 2 * 8));
      else
        load_matrices_transposed(raw, tile + place<T, kColumns>(k + lane % 16, n + kStride * j + lane / 16 * kStride));
      b[j][0] = raw[0];
      b[j][1] = raw[1];
      b[j + 1][0] = raw[2];
      b[j + 1][1] = raw[3];
    }
    if constexpr (kCount % 2 == 1) {
      constexpr int j = kCount - 1;
      if constexpr (kAlong == Along::kDepth)
        load_matrices(b[j], tile + place<T, kColumns>(n + kStride * j + lane % 8, k + lane / 8 % 2 * 8));
      else
        load_matrices_transposed(b[j], tile + place<T, kColumns>(k + lane % 16, n + kStride * j));
    }
  }

  __device__ static void multiply(float (&c)[4], const A &a, const B &b) { multiply_add<T>(c, a, b[0], b[1]); }
};

template <>
struct Fragments<Tf32> {
  using A = uint32_t[4];
  using B = uint32_t[2];

  template <Along kAlong, int kColumns>
  __device__ static float element(const float *tile, int outer, int k) {
    return tile[kAlong == Along::kDepth ? place<float, kColumns>(outer, k) : place<float, kColumns>(k, outer)];
  }

  template <Along kAlong, int kColumns>
  __device__ static void load_a(A &a, const float *tile, int m, int k) {
    const int row = threadIdx.x % kWarp / 4, column = threadIdx.x % 4;
    a[0] = to_tf32(element<kAlong, kColumns>(tile, m + row, k + column));
    a[1] = to_tf32(element<kAlong, kColumns>(tile, m + row + 8, k + column));
    a[2] = to_tf32(element<kAlong, kColumns>(tile, m + row, k + column + 4));
    a[3] = to_tf32(element<kAlong, kColumns>(tile, m + row + 8, k + column + 4));
  }

  template <Along kAlong, int kColumns, int kStride, int kCount>
  __device__ static void load_b(B (&b)[kCount], const float *tile, int n, int k) {
    const int row = threadIdx.x % 4, column = threadIdx.x % kWarp / 4;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      b[j][0] = to_tf32(element<kAlong, kColumns>(tile, n + kStride * j + column, k + row));
      b[j][1] = to_tf32(element<kAlong, kColumns>(tile, n + kStride * j + column, k + row + 4));
    }
  }

  __device__ static void multiply(float (&c)[4], const A &a, const B &b) { multiply_add_tf32(c, a, b[0], b[1]); }
};

template <>
struct Fragments<Exact> {
  struct A {
    float low[4], high[4];  // rows l / 4 and l / 4 + 8, four steps
  };
  struct B {
    float even[4], odd[4];  // columns 2 * (l % 4) and 2 * (l % 4) + 1, four steps
  };

  template <Along kAlong, int kColumns>
  __device__ static void load_a(A &a, const float *tile, int m, int k) {
    const int row = m + threadIdx.x % kWarp / 4;
    if constexpr (kAlong == Along::kDepth) {
      load_vec4(tile + place<float, kColumns>(row, k), 4, true, a.low);
      load_vec4(tile + place<float, kColumns>(row + 8, k), 4, true, a.high);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a.low[i] = tile[place<float, kColumns>(k + i, row)];
        a.high[i] = tile[place<float, kColumns>(k + i, row + 8)];
      }
    }
  }

  template <Along kAlong, int kColumns, int kStride, int kCount>
  __device__ static void load_b(B (&b)[kCount], const float *tile, int n, int k) {
    const int column = n + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if constexpr (kAlong == Along::kDepth) {
        load_vec4(tile + place<float, kColumns>(column + kStride * j, k), 4, true, b[j].even);
        load_vec4(tile + place<float, kColumns>(column + kStride * j + 1, k), 4, true, b[j].odd);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 two = load_pair(tile + place<float, kColumns>(k + i, column + kStride * j));
          b[j].even[i] = two.x;
          b[j].odd[i] = two.y;
        }
      }
    }
  }

  __device__ static void multiply(float (&c)[4], const A &a, const B &b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      c[0] = fmaf(a.low[i], b.even[i], c[0]);
      c[1] = fmaf(a.low[i], b.odd[i], c[1]);
      c[2] = fmaf(a.high[i], b.even[i], c[2]);
      c[3] = fmaf(a.high[i], b.odd[i], c[3]);
    }
  }
};

// c += a b over `steps` steps of kStepK. a begins at row m, b at column n, both at depth k; their tiles have kColumnsA
// and kColumnsB columns. The fragments of c are kStrideM rows and kStrideN columns apart; only the first `fragments` of
// the rows are computed.
template <typename Engine, Along kA, int kColumnsA, Along kB, int kColumnsB, int kStrideM = 16, int kStrideN = 8,
          int kM, int kN>
__device__ inline void multiply(Accumulators<kM, kN> &c, const typename Engine::Scalar *a, int m,
                                const typename Engine::Scalar *b, int n, int k, int steps, int fragments = kM) {
  using Loads = Fragments<Engine>;
#pragma unroll 2
  for (int step = 0; step < steps; ++step) {
    typename Loads::B b_fragments[kN];
    Loads::template load_b<kB, kColumnsB, kStrideN>(b_fragments, b, n, k + step * Engine::kStepK);
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      if (i >= fragments) break;
      typename Loads::A a_fragment;
      Loads::template load_a<kA, kColumnsA>(a_fragment, a, m + kStrideM * i, k + step * Engine::kStepK);
#pragma unroll
      for (int j = 0; j < kN; ++j) Loads::multiply(c[i][j], a_fragment, b_fragments[j]);
    }
  }
}

// Calls visit(row, column, first, second) for every pair of adjacent accumulators of this lane. The fragments are
// kStrideM rows and kStrideN columns apart.
template <int kStrideM = 16, int kStrideN = 8, int kM, int kN, typename Visit>
__device__ inline void for_each_pair(const Accumulators<kM, kN> &c, const Visit &visit) {
  const int row = threadIdx.x % kWarp / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      visit(kStrideM * i + row, kStrideN * j + column, c[i][j][0], c[i][j][1]);
      visit(kStrideM * i + row + 8, kStrideN * j + column, c[i][j][2], c[i][j][3]);
    }
}

}  // namespace lily::cuda
