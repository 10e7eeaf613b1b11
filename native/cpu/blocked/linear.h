// The product of a frozen linear layer in blocks: y (+)= x W^T + bias, and dx (+)= dy W.
//
//   linear_pack  W^T or W as rhs, for the caller to keep. Tasks: pieces of k
//   linear       out (+)= in rhs + bias. Tasks: tiles of columns x tiles of tokens
//
//   packed   [chunk of k][panel of columns][step of the chunk]: what a task uses at a time is contiguous
//
// A task packs one chunk of k of its columns, and all of its rows use it. The sums of a row are its old contents and
// the bias, then one chunk of k after the other. They are kept in `out` itself where it is float32, and otherwise in
// scratch until the last chunk. No cut of rows or columns changes a result.
#pragma once

#include "cpu/blocked/product.h"

namespace lily::cpu {
namespace blocked {
namespace {

constexpr Columns kLinearColumns = Columns::kInOrder;

// Tokens whose sums are in scratch at a time: few enough for the caches, and enough to pack rhs for them.
constexpr int64_t kLinearTokens = 12 * 32;
static_assert(kLinearTokens % kBlocking.block_rows == 0);

LILY_INLINE int64_t linear_sum_floats(const LinearPass &pass) {
  return minimum(kLinearTokens, pass.tile_tokens) * pass.widest_tile;
}

// Rows of a transposed left operand that are packed at a time: three cache lines of float32 numbers.
constexpr int64_t kTransposedRows = (48 + kBlocking.block_rows - 1) / kBlocking.block_rows * kBlocking.block_rows;

// Floats of the copy of a left operand.
LILY_INLINE int64_t linear_copy_floats(const LinearPass &pass) {
  constexpr int64_t kPacked =
      kTransposedRows / kBlocking.block_rows * (kBlocking.chunk_depth / kBlocking.step_depth) * kBlockFloats;
  return pass.transposes_in ? kPacked : kCopyFloats;
}

int64_t linear_scratch(const LinearPass &pass) {
  const int64_t packed = pass.packed == nullptr ? packed_floats(kBlocking.chunk_depth, pass.widest_tile) : 0;
  return linear_copy_floats(pass) + packed + linear_sum_floats(pass);
}

// The columns [first, first + columns) of rhs, k in [begin, end).
LILY_INLINE void pack_weight(const LinearPass &pass, int64_t first, int64_t columns, int64_t begin, int64_t end,
                             float *out, int64_t panel_pitch) {
  const lily_linear &call = *pass.call;
  if (call.problem.transposed != 0) {
    Engine::pack<kLinearColumns>(submatrix(call.weight, begin, first), end - begin, columns, 1.0f, nullptr, out,
                                 panel_pitch);
  } else {
    Engine::pack_transposed<kLinearColumns>(submatrix(call.weight, first, begin), columns, end - begin, 1.0f, out,
                                            panel_pitch);
  }
}

// Floats of a packed weight before the chunk that begins at k.
LILY_INLINE int64_t chunk_offset(const LinearPass &pass, int64_t k) { return packed_floats(k, pass.columns); }

void linear_pack(const LinearPass &pass, int64_t piece, float *packed) {
  const int64_t begin = pass.depth_pieces.begin(piece), end = pass.depth_pieces.end(piece);
  pack_weight(pass, 0, pass.columns, begin, end, packed + chunk_offset(pass, begin),
              block_steps(end - begin) * kPanelFloats);
}

// sums = old contents of `out` + bias, each if present. Returns false, and writes nothing, if neither is.
LILY_INLINE bool start_sums(int64_t rows, int64_t columns, const lily_matrix &out, const lily_matrix &bias, float *sums,
                            int64_t pitch) {
  const bool in_place = sums == out.data;
  if (bias.data == nullptr && (in_place || out.accumulate == 0)) return out.accumulate != 0;
  with_element(out.dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto *const row = static_cast<const decltype(element) *>(out.data) + i * out.pitch;
      float *const to = sums + i * pitch;
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        store(to + j, out.accumulate != 0 ? load_up_to(row + j, count) : Vector{});
      });
    }
  });
  if (bias.data == nullptr) return true;
  with_element(bias.dtype, [&](auto element) __attribute__((always_inline)) {
    const auto *const values = static_cast<const decltype(element) *>(bias.data);
    for (int64_t i = 0; i < rows; ++i) {
      float *const to = sums + i * pitch;
      for_vectors(columns, [=](int64_t j, int64_t count) __attribute__((always_inline)) {
        store(to + j, load(to + j) + load_up_to(values + j, count));
      });
    }
  });
  return true;
}

// sums (+)= in^T rhs for the tokens [begin, end), which are columns of `in`, and k in [k, k_end).
LILY_INLINE void multiply_transposed_rows(const lily_matrix &in, int64_t begin, int64_t end, int64_t k, int64_t k_end,
                                          const PackedRhs &rhs, const Sums &sums, bool accumulate, float *copy) {
  const int64_t steps = block_steps(k_end - k);
  for (int64_t first = begin; first < end; first += kTransposedRows) {
    const int64_t last = minimum(end, first + kTransposedRows);
    for (int64_t row = k; row < k_end; row += kTokenTile) {
      Engine::pack_lhs(submatrix(in, row, first), minimum(kTokenTile, k_end - row), last - first,
                       copy + (row - k) / kBlocking.step_depth * kBlockFloats, steps * kBlockFloats);
    }
    for (int64_t t = first; t < last; t += kBlocking.block_rows) {
      const Engine::Lhs block = Engine::packed_lhs(copy + (t - first) / kBlocking.block_rows * steps * kBlockFloats);
      for (int64_t n = 0; n < rhs.columns; n += kBlocking.panel) {
        Engine::multiply<kLinearColumns>({minimum(kBlocking.block_rows, last - t), rhs.columns - n, steps}, block,
                                         rhs.panels + n / kBlocking.panel * rhs.panel_pitch,
                                         {sums.data + (t - begin) * sums.pitch + n, sums.pitch}, accumulate);
      }
    }
  }
}

// The sums of the tokens [begin, end) and the columns [first, first + columns).
LILY_INLINE void linear_tile(const LinearPass &pass, int64_t begin, int64_t end, int64_t first, int64_t columns,
                             bool in_place, float *scratch) {
  const lily_linear &call = *pass.call;
  float *const copy = scratch, *const buffer = copy + linear_copy_floats(pass);
  float *const packed = buffer + linear_sum_floats(pass);
  const lily_matrix out = submatrix(call.y, begin, first);
  float *const sums = in_place ? static_cast<float *>(out.data) : buffer;
  const int64_t pitch = in_place ? out.pitch : round_up(columns, kBlocking.panel);
  const lily_matrix bias = call.bias.data == nullptr ? call.bias : submatrix(call.bias, 0, first);
  const bool started = start_sums(end - begin, columns, out, bias, sums, pitch);
  for (int64_t i = 0; pass.depth == 0 && !started && i < end - begin; ++i) {  // the sum of nothing
    for_vectors(columns, [=](int64_t j, int64_t count)
                             __attribute__((always_inline)) { store_up_to(sums + i * pitch + j, Vector{}, count); });
  }
  for (int64_t k = 0; k < pass.depth; k += kBlocking.chunk_depth) {
    const int64_t k_end = minimum(pass.depth, k + kBlocking.chunk_depth);
    const int64_t panel_pitch = block_steps(k_end - k) * kPanelFloats;
    PackedRhs rhs = {packed, panel_pitch, columns};
    if (pass.packed != nullptr) {
      rhs.panels = pass.packed + chunk_offset(pass, k) + first / kBlocking.panel * panel_pitch;
    } else {
      pack_weight(pass, first, columns, k, k_end, packed, panel_pitch);
    }
    if (pass.transposes_in) {
      multiply_transposed_rows(call.x, begin, end, k, k_end, rhs, {sums, pitch}, started || k > 0, copy);
      continue;
    }
    for (int64_t t = begin; t < end; t += kBlocking.block_rows) {
      if (in_place && kBlocking.prefetches)
        prefetch(minimum(kBlocking.block_rows, end - t), columns, submatrix(out, t - begin, 0));
      multiply_row_block({call.x, end, pass.depth}, t, k, k_end, rhs, {sums + (t - begin) * pitch, pitch},
                         started || k > 0, copy);
    }
  }
  if (!in_place) write_rows(end - begin, columns, sums, pitch, 1.0f, out, false);
}

void linear(const LinearPass &pass, int64_t task, float *scratch) {
  const Engine::Scope scope;
  const int64_t tile = task % pass.column_tiles;
  const int64_t first = pass.first_column(tile), columns = pass.first_column(tile + 1) - first;
  const int64_t begin = task / pass.column_tiles * pass.tile_tokens;
  const int64_t end = minimum(pass.call->problem.tokens, begin + pass.tile_tokens);
  const bool in_place = Engine::adds_in_place(pass.call->y, columns);
  const int64_t tokens = in_place ? pass.tile_tokens : kLinearTokens;
  for (int64_t t = begin; t < end; t += tokens) {
    linear_tile(pass, t, minimum(end, t + tokens), first, columns, in_place, scratch);
  }
}

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
