// The tile table: the tile shapes of each engine, with the reason for each. A plan selects rows of it; kernels are
// compiled for these shapes only. Includes no CUDA header: the plan is host code.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "cuda/tiles/shapes.h"

namespace lily::cuda {

template <typename... Rows>
struct Table {};

// One kernel of backward_dy: its tiles for token blocks and for column blocks, of equally many warps.
template <typename Shrink_, typename Strip_>
struct DyTiles : BlockOf<Shrink_::kWarps> {
  using Engine = typename Shrink_::Engine;
  using Shrink = Shrink_;
  using Strip = Strip_;
  static_assert(Shrink::kWarps == Strip::kWarps);
};

template <typename Engine, size_t kScalarBytes = sizeof(typename Engine::Scalar)>
struct Tiles;

template <typename E, int kBlockM, int kBlockN, int kStages>
using WgmmaTile = LargeTile<E, kBlockM, kBlockN, kPanelBytes / static_cast<int>(sizeof(typename E::Scalar)), kStages,
                            kBlockM / kGroupRows * kGroupWarps, Instruction::kWgmma>;

// 16-bit operands on matrix units. Shapes have at most 128 accumulators per thread, with the exceptions that say so.
// Four warps leave room for two resident blocks on a multiprocessor with 100 KiB of shared memory; eight for one.
template <typename E>
struct Tiles<E, 2> {
  // forward_shrink. BLOCK_M (tokens), BLOCK_N (rank). Each element has three accumulators: the two halves of a split,
  // and the sum over splits.
  using Shrink = Table<
      // 32 KiB. Small ranks; 16 tokens (8 of them may be used) give enough blocks, and every rank has this tile.
      ShrinkTile<E, 16, 16>,
      // Few tokens: x is read r / 64 times.
      ShrinkTile<E, 16, 64>,
      // Many tokens: A is read M / 64 times. 96 accumulators in 48 KiB.
      ShrinkTile<E, 64, 64>,
      // Eight warps: x is read once up to r = 128. 96 accumulators in 60 KiB, which Turing has too.
      ShrinkTile<E, 64, 128, 8>>;
  // forward_expand. BLOCK_M (tokens), BLOCK_K (rank), BLOCK_N (columns). h is read d / BLOCK_N times.
  using Expand = Table<
      // 28 to 33 KiB, which Turing has too: three blocks. Ranks up to 64, and few tokens, for which it gives blocks.
      StripTile<E, 64, 64, 32>,
      // Eight warps, 96 KiB: C of ranks up to 128 is combined once, before the first tile.
      StripTile<E, 64, 128, 128, 8>>;
  // backward_dy. Token blocks, then column blocks.
  using Dy = Table<
      // Ranks up to 16: memory limits them.
      DyTiles<ShrinkTile<E, 16, 16>, StripTile<E, 64, 16, 64>>,
      // Weights per token, where the column blocks form u and are many: 32 columns of each. Few tokens: token blocks of
      // 16. Without it the calls of few tokens take half as long again.
      DyTiles<ShrinkTile<E, 16, 64>, StripTile<E, 64, 64, 32>>,
      // Ranks up to 64 and many tokens: h is read d / 128 times.
      DyTiles<ShrinkTile<E, 64, 64>, StripTile<E, 64, 64, 128>>,
      // Eight warps, 132 KiB. r = 128 and many tokens: C is read M / 128 times, h d / 256 times. 192 accumulators.
      DyTiles<ShrinkTile<E, 128, 128, 8>, StripTile<E, 64, 128, 256, 8>>>;
  // backward_x. dx and dA in one pass.
  using X = Table<
      // 41 KiB, which Turing also has. Ranks up to 64, and few tokens.
      StripTile<E, 64, 64, 32>,
      // Eight warps, 96 accumulators for both products, 128 KiB. Ranks from 65, dh is read d / 128 times.
      StripTile<E, 64, 128, 128, 8>>;
  // forward_mix. BLOCK_M (tokens), BLOCK_N (columns), BLOCK_K (E r).
  using Mix = Table<
      // If B stays in shared memory, a block has E r 128 bytes of it: with E = 4 two blocks fit into 164 KiB up to
      // r = 64, one up to r = 256. 128 tokens need a third less of fragments than 64.
      MixTile<E, 128, 64, 64>,
      // Half of B; fits into the 64 or 100 KiB of Turing and RTX. Few tokens.
      MixTile<E, 32, 32, 64>>;
  // forward_decode. BLOCK_M (tokens): fragments of 16 rows without a token are not multiplied.
  using Decode = Table<DecodeTile<E, kDecodeTokens>>;
  // backward_dy_once. BLOCK_K (rank): above it the partial sums of q and D exceed a second read of dy. Few tokens and
  // LoRA: a launch less.
  using Once = Table<OnceTile<E, 16>>;
  // BLOCK_M, BLOCK_N, BLOCK_K, stages. The comments compare, per K step of 16, the clocks of shared memory (fragments,
  // and copies) with the clocks of the matrix units (2 per instruction on A100; 1 on H100, whose full rate requires
  // wgmma):
  using WithoutWgmma = LargeTile<E, 64, 64, 64, 3>;
  using Large = Table<
      // 128 accumulators, 2 blocks in 140 KiB. Fragments 128, copies 64: 192 against 256. All of A100's rate except
      // barriers (expect 80 %), two thirds of the mma.sync rate on H100.
      LargeTile<E, 128, 128, 32, 4>,
      // 32 accumulators, 2 to 4 blocks in 48 KiB each. 64 and 32: 96 against 64. A few hundred tokens, and GPUs whose
      // matrix units are slow compared with shared memory (RTX). Hopper without wgmma.
      WithoutWgmma,
      // Few tokens: loading the rows of A or the columns of B once takes most of the time; many blocks with deep
      // copies.
      LargeTile<E, 16, 32, 64, 6>,
      // Hopper: wgmma reads both operands from shared memory, so that a warpgroup loads b for 64 rows. 128
      // accumulators, 208 KiB with the output: 160 clocks of shared memory for fragments and 96 for copies against 256
      // of the matrix units, and a row for several tiles in turn.
      WgmmaTile<E, 128, 256, 3>,
      // 64 accumulators, 3 blocks in 72 KiB each.
      WgmmaTile<E, 64, 128, 3>,
      // Few tokens: 72 KiB, many blocks with deep copies. 64 rows of a are the fewest; those without a token are zeros.
      WgmmaTile<E, 64, 32, 6>>;
};

// float32: one tile for each kernel, because arithmetic limits these, not memory. All fit into the 64 KiB of Turing.
template <typename E>
struct Tiles<E, 4> {
  // Narrow: a wider one would multiply zeros at small ranks.
  using Shrink = Table<ShrinkTile<E, 16, 16>>;
  using Expand = Table<StripTile<E, 32, 64, 32>>;
  using Dy = Table<DyTiles<ShrinkTile<E, 16, 16>, StripTile<E, 32, 16, 64>>>;
  using X = Table<StripTile<E, 32, 64, 32>>;
  // With E = 64 at r = 128 only 16 tokens fit.
  using Mix = Table<MixTile<E, 16, 32, 32>>;
  using Decode = Table<DecodeTile<E, kDecodeTokens>>;
  using Once = Table<>;  // limited by arithmetic, not by memory
  using WithoutWgmma = void;
  using Large = Table<LargeTile<E, 32, 32, 32, 4>>;
};

// ---- Rows by architecture ----

// The architecture of Hopper (compute_90a), which has wgmma. Later GPUs cannot execute it. Products of large ranks have
// no other tiles there, because their rows would have other bits. One tile without wgmma remains for when it is off.
constexpr int kHopperArchitecture = 901, kHopperWithoutWgmma = 902;

// Whether a row is of large ranks, with wgmma; or with mma.sync, of 16-bit operands.
template <typename Row>
constexpr bool kHasWgmma = [] {
  if constexpr (requires { Row::kInstruction; })
    return Row::kInstruction == Instruction::kWgmma;
  else
    return false;
}();
template <typename Row>
constexpr bool kHasLargeMma = [] {
  if constexpr (requires { Row::kInstruction; })
    return Row::kInstruction == Instruction::kMma && sizeof(typename Row::Scalar) == 2;
  else
    return false;
}();

// Whether the kernels of a row, which need at least `bytes` of shared memory, have code for a virtual architecture. The
// blocks of Turing have 64 KiB.
template <typename Row>
constexpr bool has_code(int architecture, int bytes) {
  if (kHasWgmma<Row>) return architecture == kHopperArchitecture;
  if (architecture == kHopperArchitecture && kHasLargeMma<Row>)
    return std::is_same_v<Row, typename Tiles<typename Row::Engine>::WithoutWgmma>;
  return architecture >= 80 || bytes <= 64 * 1024;
}

// Whether plans for a device that executes this code choose the row.
template <typename Row>
constexpr bool is_offered(int architecture) {
  if (architecture == kHopperArchitecture && kHasLargeMma<Row>) return false;
  if (architecture == kHopperWithoutWgmma) return !kHasWgmma<Row> && has_code<Row>(kHopperArchitecture, 0);
  return has_code<Row>(architecture, 0);
}

// ---- Lookup ----

// Names a tile in a plan. A kernel's template is found by these sizes.
struct Tile {
  int block_m, block_n, block_k;

  bool operator==(const Tile &) const = default;

  template <typename Row>
  constexpr bool is(Row) const {
    return Row::kBlockM == block_m && Row::kBlockN == block_n && Row::kBlockK == block_k;
  }
};

template <typename Row>
constexpr Tile tile_of(Row) {
  return {Row::kBlockM, Row::kBlockN, Row::kBlockK};
}

// Calls visit(row) for the first row for which matches(row) holds; returns false if there is none.
template <typename... Rows, typename Matches, typename Visit>
bool with_row(Table<Rows...>, const Matches &matches, const Visit &visit) {
  return ((matches(Rows{}) ? (visit(Rows{}), true) : false) || ...);
}

template <typename... Rows, typename Visit>
void for_each_row(Table<Rows...>, const Visit &visit) {
  (visit(Rows{}), ...);
}

}  // namespace lily::cuda
