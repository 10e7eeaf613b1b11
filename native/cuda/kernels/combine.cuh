// The combined projector of one pooling group, C = sum_e w_e B_e, and the source of its weights w. Symbols as in
// docs/math.md.
#pragma once

#include "cuda/kernels/strip.cuh"

namespace lily::cuda {

enum class WeightSource {
  kOne,      // LoRA
  kUniform,  // 1 / E
  kGiven,    // E floats given by the caller
  kLogits,   // the softmax of E logits
  kMean,     // partial sums of probabilities and of the number of kept tokens
  kSoftmax   // partial sums of logits
};

struct Weights {
  WeightSource source;
  int experts;
  const void *data;  // E floats, E x 1 logits, or (E + 1) x pitch partial sums
  int64_t pitch;
  int32_t dtype;  // of logits
};

// Writes w to shared memory. All threads must call it; it ends with a barrier. Partial sums are added in the order of
// the blocks that wrote them.
__device__ inline void compute_weights(float *weights, const Weights &from) {
  const int experts = from.experts;
  if (from.source == WeightSource::kMean || from.source == WeightSource::kSoftmax) {
    __shared__ float sum[kMostExperts + 1];
    sum_rows(sum, static_cast<const float *>(from.data), experts + 1, static_cast<int>(from.pitch));
    __syncthreads();
    const float kept = sum[experts];
    if (from.source == WeightSource::kSoftmax && threadIdx.x == 0 && kept > 0) softmax(sum, experts);
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += blockDim.x)
      weights[e] = kept == 0 ? 0.0f : from.source == WeightSource::kMean ? sum[e] / kept : sum[e];
  } else if (from.source == WeightSource::kLogits) {
    with_type(AllTypes{}, from.dtype, [&](auto tag) {
      const auto *logits = static_cast<const decltype(tag) *>(from.data);
      for (int e = threadIdx.x; e < experts; e += blockDim.x) weights[e] = to_float(logits[e * from.pitch]);
    });
    __syncthreads();
    if (threadIdx.x == 0) softmax(weights, experts);
  } else {
    for (int e = threadIdx.x; e < experts; e += blockDim.x)
      weights[e] = from.source == WeightSource::kGiven     ? static_cast<const float *>(from.data)[e]
                   : from.source == WeightSource::kUniform ? 1.0f / static_cast<float>(experts)
                                                           : 1.0f;
  }
  __syncthreads();
}

// b is E*r x d_out. For LoRA it is d_out x r and is read transposed.
struct Experts {
  Operand b;
  int experts, rank, columns;
  int transposed;
};

// Elements n .. n + 3 of rows k, k + step, ... of C. Rows from `row_end` on are zero. The loads of kRowsInFlight rows
// of up to four experts are in flight.
template <bool kWhole, typename... S, int kRowsInFlight>
__device__ inline void combine_vec4(Types<S...> types, const Experts &from, const float *weights, int k, int step,
                                    int row_end, int n, float (&value)[kRowsInFlight][4]) {
  constexpr int kExpertsInFlight = kWhole ? 4 : 2, kCount = kExpertsInFlight * kRowsInFlight;
#pragma unroll
  for (int i = 0; i < kRowsInFlight; ++i)
#pragma unroll
    for (int v = 0; v < 4; ++v) value[i][v] = 0;
#pragma unroll 1
  for (int first = 0; first < from.experts; first += kExpertsInFlight) {
    float b[kCount][4];
    load_vectors<kWhole>(
        types, from.b, n, from.columns - n,
        [&](int m) {
          const int expert_row = min(first + m / kRowsInFlight, from.experts - 1) * from.rank;
          return expert_row + min(k + m % kRowsInFlight * step, row_end - 1);
        },
        b);
#pragma unroll
    for (int m = 0; m < kCount; ++m) {
      const int j = m / kRowsInFlight, i = m % kRowsInFlight;
      const bool is_expert = first + j < from.experts;
      const float weight = weights[is_expert ? first + j : 0];
#pragma unroll
      for (int v = 0; v < 4; ++v)
        value[i][v] = is_expert && k + i * step < row_end ? fmaf(weight, b[m][v], value[i][v]) : value[i][v];
    }
  }
}

// A tile of LoRA's b, transposed as it is loaded.
template <bool kWhole, int kRows, int kColumns, int kBlockThreads, typename T, typename... S>
__device__ inline void transpose_tile(Types<S...> types, T *tile, const Experts &from, float weight, int row,
                                      int column) {
  constexpr int kVec4PerRow = kRows / 4, kStep = kBlockThreads / kVec4PerRow,
                kLoadsInFlight = kTileLoadsInFlight<kWhole, kColumns, kStep>;
  const int k = static_cast<int>(threadIdx.x) % kVec4PerRow * 4, valid = from.rank - row - k;
  const int columns = valid <= 0 ? 0 : from.columns - column;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kVec4PerRow; first < kColumns; first += kLoadsInFlight * kStep) {
    float value[kLoadsInFlight][4] = {};
    if (columns > 0)
      load_vectors<kWhole>(
          types, from.b, row + k, valid, [&](int i) { return column + min(first + i * kStep, columns - 1); }, value);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const int n = first + i * kStep;
#pragma unroll
      for (int v = 0; v < 4; ++v)
        tile[place<T, kColumns>(k + v, n)] = from_float<T>(n < columns ? weight * value[i][v] : 0.0f);
    }
  }
}

// Computes a kRows x kColumns tile of C from (row, column) on. Elements outside C are zero. kIsLora: B may be
// LoRA's.
template <typename Engine, int kRows, int kColumns, bool kIsLora = true, int kBlockThreads = kThreads>
__device__ inline void combine_tile(typename Engine::Scalar *tile, const Experts &from, const float *weights, int row,
                                    int column) {
  constexpr typename Engine::Parameters kTypes;
  if (kIsLora && from.transposed) {
    with_whole(has_vec4(from.b) && from.rank % 4 == 0, [&](auto is_whole) {
      transpose_tile<decltype(is_whole)::value, kRows, kColumns, kBlockThreads>(kTypes, tile, from, weights[0], row,
                                                                                column);
    });
    return;
  }
  constexpr int kVec4PerRow = kColumns / 4, kStep = kBlockThreads / kVec4PerRow;
  const int n = static_cast<int>(threadIdx.x) % kVec4PerRow * 4;
  const int rows = column + n < from.columns ? min(from.rank - row, kRows) : 0;
  const bool whole = has_vec4(from.b) && from.columns - column - n >= 4;
  with_whole(whole, [&](auto is_whole) {
    constexpr bool kWhole = decltype(is_whole)::value;
    constexpr int kRowsInFlight = kTileLoadsInFlight<kWhole, kRows, kStep>;
#pragma unroll 1
    for (int k = static_cast<int>(threadIdx.x) / kVec4PerRow; k < kRows; k += kRowsInFlight * kStep) {
      float value[kRowsInFlight][4] = {};
      if (k < rows) combine_vec4<kWhole>(kTypes, from, weights, row + k, kStep, row + rows, column + n, value);
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i)
        store_tile(tile + place<typename Engine::Scalar, kColumns>(k + i * kStep, n), value[i]);
    }
  });
}

// Number of non-zero bytes in the word. The addition sets a byte's highest bit if any of its lower bits is set.
__device__ inline int count_bytes(uint32_t word) {
  constexpr uint32_t kLow = 0x7f7f7f7f;
  return __popc((((word & kLow) + kLow) | word) & ~kLow);
}

// Number of tokens that the mask keeps, counted by one block.
template <int kBlockThreads = kThreads>
__device__ inline void count_kept(float *kept, const uint8_t *mask, int tokens) {
  constexpr int kBlockWarps = kBlockThreads / kWarp;
  __shared__ int warp_count[kBlockWarps];
  int count = 0;
  const int vectors = reinterpret_cast<uintptr_t>(mask) % 16 == 0 ? tokens / 16 : 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < vectors; i += kBlockThreads) {
    const uint4 vector = reinterpret_cast<const uint4 *>(mask)[i];
    count += count_bytes(vector.x) + count_bytes(vector.y) + count_bytes(vector.z) + count_bytes(vector.w);
  }
#pragma unroll 4
  for (int t = 16 * vectors + static_cast<int>(threadIdx.x); t < tokens; t += kBlockThreads) count += mask[t] != 0;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) count += __shfl_xor_sync(0xffffffffu, count, offset);
  if (threadIdx.x % kWarp == 0) warp_count[threadIdx.x / kWarp] = count;
  __syncthreads();
  if (threadIdx.x == 0) {
    int total = 0;
#pragma unroll
    for (int warp = 0; warp < kBlockWarps; ++warp) total += warp_count[warp];
    kept[0] = static_cast<float>(total);
  }
  __syncthreads();
}

struct Combine {
  Experts experts;
  Weights weights;
  Output c;             // r x d_out, out, rows padded with zeros; data null: C is not required
  float *weights_out;   // E, out: w; may be null
  const uint8_t *mask;  // M
  int tokens;
  float *kept;  // out: number of tokens that the mask keeps; null: there is no mask, all M count
};

// Computes tile (row_tile, column_tile) of C. `tile` and `weights` are in shared memory.
template <typename Engine, bool kIsLora = true, int kBlockThreads = kThreads>
__device__ inline void combine_block(const Combine &call, typename Engine::Scalar *tile, float *weights,
                                     int column_tile, int row_tile) {
  if (call.c.data != nullptr || call.weights_out != nullptr) compute_weights(weights, call.weights);
  if (call.weights_out != nullptr && column_tile + row_tile == 0)
    for (int e = threadIdx.x; e < call.weights.experts; e += kBlockThreads) call.weights_out[e] = weights[e];
  if (call.c.data != nullptr) {
    const int row = row_tile * kCombineRows, column = column_tile * kCombineColumns;
    combine_tile<Engine, kCombineRows, kCombineColumns, kIsLora, kBlockThreads>(tile, call.experts, weights, row,
                                                                                column);
    __syncthreads();
    unstage<Engine, kCombineRows, kCombineColumns, kBlockThreads>(
        tile, call.c, {row, call.experts.rank, column, static_cast<int>(call.c.pitch)});
  }
  if (call.kept != nullptr && column_tile == 0 && row_tile == 0)
    count_kept<kBlockThreads>(call.kept, call.mask, call.tokens);
}

}  // namespace lily::cuda
