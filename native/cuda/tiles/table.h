// The tile table: the tile shapes of each engine, with the reason for each. A plan selects rows of it; kernels are
// compiled for these shapes only. Includes no CUDA header: the plan is host code.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "cuda/tiles/shapes.h"

namespace lily::cuda {

template <typename... Rows>
struct Table {};

// One kernel of backward_dy: its tiles for token blocks and for column blocks, all of equally many warps.
template <typename Shrink, typename Strip>
struct DyTiles;
template <typename First, typename... Rest, typename... Strips>
struct DyTiles<Table<First, Rest...>, Table<Strips...>> : BlockOf<First::kWarps> {
  using Engine = typename First::Engine;
  using Shrink = Table<First, Rest...>;
  using Strip = Table<Strips...>;
};

template <typename Engine, size_t kScalarBytes = sizeof(typename Engine::Scalar)>
struct Tiles;

template <typename E, int kBlockM, int kBlockN, int kStages>
using WgmmaTile = LargeTile<E, kBlockM, kBlockN, kPanelBytes / static_cast<int>(sizeof(typename E::Scalar)), kStages,
                            kBlockM / kGroupRows * kGroupWarps, Instruction::kWgmma>;

// 16-bit operands on matrix units. With one exception shapes have at most 128 accumulators per thread. Four warps leave
// room for two resident blocks on a multiprocessor with 100 KiB of shared memory, with few exceptions; eight for one.
template <typename E>
struct Tiles<E, 2> {
  // BLOCK_M (tokens), BLOCK_N (rank). With few tokens, 16 (of which 8 may be used) gives enough blocks; with many, a
  // larger tile reads w less often. Each element has three accumulators: the two halves of a split, and the sum over
  // splits.
  using Shrink = Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 64, 16>,  // w is a quarter of x; decoding: a split at once
                       ShrinkTile<E, 16, 32>, ShrinkTile<E, 64, 32>,  //
                       ShrinkTile<E, 16, 64>, ShrinkTile<E, 64, 64>,  // 96 accumulators
                       ShrinkTile<E, 16, 128>, ShrinkTile<E, 32, 128>,  // 96 accumulators
                       // Eight warps. With 32 tokens per block w is read four times for each element of x, with 64
                       // twice, with 128 once. 96 accumulators in 60 KiB, which Turing has too.
                       ShrinkTile<E, 64, 128, 8>,
                       // 192 accumulators in 80 KiB: nearly all registers, in the memory that every GPU from Ampere on
                       // has.
                       ShrinkTile<E, 128, 128, 8>>;
  // BLOCK_M (tokens), BLOCK_K (rank), BLOCK_N (columns). 64 columns are 128 bytes; 32 give twice the blocks, if the
  // partial sums of a gradient that more splits need are large compared with x. 128 read lhs half as often: with 64,
  // lhs is read d / 64 times, at r = 64 as often as x or y itself has bytes.
  using Strip = Table<StripTile<E, 64, 16, 64>,                            //
                      StripTile<E, 64, 32, 64>,                            //
                      StripTile<E, 64, 64, 64>, StripTile<E, 64, 64, 32>,  //
                      // 128 accumulators for both products. 96 KiB for dx and dA: two blocks on H100 and B200, one
                      // elsewhere; 64 KiB for y, 48 KiB for D.
                      StripTile<E, 64, 64, 128>,  //
                      // Few tokens: 56 KiB for dx and dA.
                      OuterTile<E, 64, 128, 32>,
                      // 32 tokens: 40 KiB for y, 48 KiB for dx and dA, which Turing has too.
                      StripTile<E, 32, 128, 64>,
                      // D where eight warps give too few blocks: 128 accumulators.
                      OuterTile<E, 32, 128, 128>,
                      // Eight warps, 48 accumulators for both products. For y (64 KiB), and for dx and dA (80 KiB)
                      // where the next tile does not fit or gives too few blocks.
                      StripTile<E, 64, 128, 64, 8>,
                      // 96 accumulators for both products. 128 KiB for dx and dA, 96 KiB for y, 68 KiB for D. Not for
                      // ranks below 128: at r = 16 and 32 lhs is a small part of the bytes.
                      StripTile<E, 64, 128, 128, 8>,
                      // For y and D (128 accumulators) only: 160 KiB and 132 KiB.
                      StripTile<E, 64, 128, 256, 8>>;
  // The pairs of tiles that backward_dy combines. Those of 32 and more tokens, which leave room for eight warps per
  // multiprocessor anyway, share a kernel, and with it all code around their products; together, the others would need
  // registers that leave room for fewer blocks.
  using Dy = Table<DyTiles<Table<ShrinkTile<E, 16, 16>>, Table<StripTile<E, 64, 16, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 64, 16>>, Table<StripTile<E, 64, 16, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 32>>, Table<StripTile<E, 64, 32, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 64, 32>>, Table<StripTile<E, 64, 32, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 64>>, Table<StripTile<E, 64, 64, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 64>>, Table<StripTile<E, 64, 64, 32>>>,
                   DyTiles<Table<ShrinkTile<E, 64, 64>>, Table<StripTile<E, 64, 64, 64>, StripTile<E, 64, 64, 128>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 128>>, Table<OuterTile<E, 64, 128, 32>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 128>>, Table<StripTile<E, 32, 128, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 32, 128>>, Table<StripTile<E, 32, 128, 64>, OuterTile<E, 32, 128, 128>>>,
                   DyTiles<Table<ShrinkTile<E, 64, 128, 8>, ShrinkTile<E, 128, 128, 8>>,
                           Table<StripTile<E, 64, 128, 128, 8>, StripTile<E, 64, 128, 256, 8>>>>;
  // BLOCK_M (tokens), BLOCK_N (columns), BLOCK_K (E r). If B stays in shared memory, a block has E r 128 bytes of it
  // with 64 columns: with E = 4 two blocks of the first fit into 164 KiB up to r = 64, one up to r = 256. 128 columns
  // read h half as often, 32 halve B. Tiles of 32 tokens leave room on GPUs with 64 or 100 KiB.
  using Mix = Table<MixTile<E, 64, 64, 64>, MixTile<E, 64, 128, 64>, MixTile<E, 32, 64, 64>, MixTile<E, 32, 32, 64>,
                    // 128 tokens need a third less of fragments than 64, as 128 columns do, with half as much of B.
                    MixTile<E, 128, 64, 64>>;
  // BLOCK_M (tokens): up to 16 take one 16-row fragment; more take four, some of which may be zeros.
  using Decode = Table<DecodeTile<E, 16>, DecodeTile<E, kDecodeTokens>>;
  // BLOCK_K (rank): above 32 the partial sums of q and D exceed a second read of dy.
  using Once = Table<OnceTile<E, 16>, OnceTile<E, 32>>;
  // BLOCK_M, BLOCK_N, BLOCK_K, stages. The comments compare, per K step of 16, the clocks of shared memory (fragments,
  // and copies) with those of the matrix units (2 per instruction on A100; 1 on H100, whose full rate requires wgmma):
  using Large = Table<
      // Eight warps, 128 accumulators. Fragments 256, copies 96: 352 against 512 on A100 and 256 on H100, and three
      // quarters of the traffic with L2. 136 to 161 KiB of shared memory: one block per multiprocessor of A100 and
      // B200. No other block overlaps its prologue, so that on B200 it computes several tiles in turn.
      LargeTile<E, 128, 256, 32, 4, 8>,
      // 128 accumulators, 2 blocks in 140 KiB. Fragments 128, copies 64: 192 against 256. All of A100's rate except
      // barriers (expect 80 %), two thirds of the mma.sync rate on H100.
      LargeTile<E, 128, 128, 32, 4>,
      // 64 accumulators, 3 blocks in 48 KiB each: 96 and 48 against 128. Half a tile of the first, where that leaves
      // most multiprocessors idle in its last wave.
      LargeTile<E, 64, 128, 32, 4>,
      // 32 accumulators, 2 to 4 blocks in 48 KiB each. 64 and 32: 96 against 64. Two thirds of A100's rate, a third of
      // H100's.
      LargeTile<E, 64, 64, 64, 3>,
      // Shorter last waves at a few hundred tokens, above all on the GPUs whose matrix units are slow compared with
      // shared memory (RTX).
      LargeTile<E, 32, 64, 64, 4>, LargeTile<E, 32, 32, 64, 4>,
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

// float32: half the tokens, because elements are twice as large; every shape fits into the 64 KiB of Turing.
template <typename E>
struct Tiles<E, 4> {
  using Shrink = Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 32, 16>,  //
                       ShrinkTile<E, 16, 64>, ShrinkTile<E, 32, 64>>;
  using Strip = Table<StripTile<E, 32, 16, 64>, StripTile<E, 32, 64, 32>>;
  using Dy = Table<DyTiles<Table<ShrinkTile<E, 16, 16>>, Table<StripTile<E, 32, 16, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 32, 16>>, Table<StripTile<E, 32, 16, 64>>>,
                   DyTiles<Table<ShrinkTile<E, 16, 64>>, Table<StripTile<E, 32, 64, 32>>>,
                   DyTiles<Table<ShrinkTile<E, 32, 64>>, Table<StripTile<E, 32, 64, 32>>>>;
  // The last one is for many experts: with E = 64 at r = 128 only 16 tokens fit.
  using Mix = Table<MixTile<E, 32, 64, 32>, MixTile<E, 32, 32, 32>, MixTile<E, 16, 32, 32>>;
  using Decode = Table<DecodeTile<E, 16>, DecodeTile<E, kDecodeTokens>>;
  using Once = Table<>;  // limited by arithmetic, not by memory
  using Large = Table<LargeTile<E, 64, 64, 32, 3>, LargeTile<E, 16, 32, 32, 6>>;
};

// ---- Rows by architecture ----

// Rows of which PTX has code: GPUs for which the library has no machine code compile it, and choose among these. PTX of
// all rows was a quarter of the library. Few and many tokens, and ranks up to 16, 64 and 128, each have a tile; by the
// model of time a call of 16 bits takes 4 % longer on average than with all rows (docs/cuda-backend.md).
template <typename E, size_t kScalarBytes = sizeof(typename E::Scalar)>
struct PtxRows;

template <typename E>
struct PtxRows<E, 2> : Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 16, 64>, ShrinkTile<E, 64, 64>,
                             ShrinkTile<E, 64, 128, 8>, StripTile<E, 64, 16, 64>, StripTile<E, 64, 64, 32>,
                             StripTile<E, 64, 64, 128>, StripTile<E, 64, 128, 128, 8>, MixTile<E, 32, 32, 64>,
                             MixTile<E, 128, 64, 64>, DecodeTile<E, 16>, DecodeTile<E, kDecodeTokens>,
                             LargeTile<E, 128, 128, 32, 4>, LargeTile<E, 32, 64, 64, 4>, LargeTile<E, 16, 32, 64, 6>> {
};

template <typename E>
struct PtxRows<E, 4>
    : Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 32, 64>, StripTile<E, 32, 16, 64>, StripTile<E, 32, 64, 32>,
            MixTile<E, 32, 64, 32>, MixTile<E, 16, 32, 32>, DecodeTile<E, 16>, DecodeTile<E, kDecodeTokens>,
            LargeTile<E, 64, 64, 32, 3>, LargeTile<E, 16, 32, 32, 6>> {};

// The virtual architecture of this PTX. No machine code is made of it (scripts/cuda-targets.js).
constexpr int kPtxArchitecture = 110;

template <typename Row, typename... Rows>
constexpr bool contains(Table<Rows...>) {
  return (std::is_same_v<Row, Rows> || ...);
}

// That of Hopper (compute_90a), which has wgmma. Later GPUs cannot execute it. Products of large ranks have no other
// tiles there, because their rows would have other bits; unless wgmma is off, for which code of one remains.
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

// The virtual architectures of which machine code is made (scripts/cuda-targets.js), by the first capability that
// executes it.
constexpr int target_of(int architecture) { return architecture < 80 ? 75 : architecture < 90 ? 80 : 90; }

// The kernels that some rows do not have: forward_expand, forward_mix, backward_dy and backward_x. kAny is any other.
enum class Kernel { kAny, kExpand, kMix, kDy, kX };

// A kernel of a row, or of backward_dy, that has no code for these architectures.
template <Kernel kKernel, typename Row, int... kArchitectures>
struct Without {};

// Kernels that have no code, because others take nearly as long: in the model of time one of many random calls takes
// at most 0.2 % longer on average without them all, and none more than 11 % (docs/cuda-backend.md).
template <typename E, size_t kScalarBytes = sizeof(typename E::Scalar)>
struct LeftOut;

template <typename E>
struct LeftOut<E, 2>
    : Table<Without<Kernel::kExpand, StripTile<E, 64, 16, 64>, 75, 80, 90>,
            Without<Kernel::kExpand, StripTile<E, 32, 128, 64>, 80, 90>,
            Without<Kernel::kX, StripTile<E, 64, 32, 64>, 90>, Without<Kernel::kX, StripTile<E, 64, 64, 64>, 80, 90>,
            Without<Kernel::kX, StripTile<E, 64, 64, 128>, 80>, Without<Kernel::kX, OuterTile<E, 64, 128, 32>, 80, 90>,
            Without<Kernel::kX, StripTile<E, 32, 128, 64>, 80, 90>,
            Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 64, 16>>, Table<StripTile<E, 64, 16, 64>>>, 75, 80, 90>,
            Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 16, 64>>, Table<StripTile<E, 64, 64, 32>>>, 75>,
            Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 64, 32>>, Table<StripTile<E, 64, 32, 64>>>, 75>,
            Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 16, 128>>, Table<OuterTile<E, 64, 128, 32>>>, 75, 80>,
            Without<Kernel::kMix, MixTile<E, 64, 64, 64>, 75, 90>, Without<Kernel::kMix, MixTile<E, 32, 64, 64>, 90>> {
};

template <typename E>
struct LeftOut<E, 4>
    : Table<Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 16, 64>>, Table<StripTile<E, 32, 64, 32>>>, 75>,
            Without<Kernel::kDy, DyTiles<Table<ShrinkTile<E, 32, 64>>, Table<StripTile<E, 32, 64, 32>>>, 75>,
            Without<Kernel::kMix, MixTile<E, 32, 64, 32>, 75>, Without<Kernel::kMix, MixTile<E, 32, 32, 32>, 75>> {};

template <Kernel kKernel, typename Row, Kernel kOther, typename Other, int... kArchitectures>
constexpr bool names(Without<kOther, Other, kArchitectures...>, int target) {
  return kKernel == kOther && std::is_same_v<Row, Other> && ((target == kArchitectures) || ...);
}
template <Kernel kKernel, typename Row, typename... Entries>
constexpr bool names_one(Table<Entries...>, int target) {
  return (names<kKernel, Row>(Entries{}, target) || ...);
}

// Of a row of a table, or of DyTiles. PTX has the kernels of all of its rows.
template <Kernel kKernel, typename Row>
constexpr bool is_left_out(int architecture) {
  return architecture != kPtxArchitecture &&
         names_one<kKernel, Row>(LeftOut<typename Row::Engine>{}, target_of(architecture));
}

// Whether a kernel of a row, which needs at least `bytes` of shared memory, has code for a virtual architecture. The
// blocks of Turing have 64 KiB.
template <typename Row, Kernel kKernel = Kernel::kAny>
constexpr bool has_code(int architecture, int bytes) {
  if (kHasWgmma<Row>) return architecture == kHopperArchitecture;
  if (architecture == kPtxArchitecture) return contains<Row>(PtxRows<typename Row::Engine>{});
  if (architecture == kHopperArchitecture && kHasLargeMma<Row>)
    return std::is_same_v<Row, LargeTile<typename Row::Engine, 64, 64, 64, 3>>;
  return (architecture >= 80 || bytes <= 64 * 1024) && !is_left_out<kKernel, Row>(architecture);
}

// Whether plans for a device that executes this code choose the row for this kernel.
template <typename Row, Kernel kKernel = Kernel::kAny>
constexpr bool is_offered(int architecture) {
  if (architecture == kHopperArchitecture && kHasLargeMma<Row>) return false;
  if (architecture == kHopperWithoutWgmma) return !kHasWgmma<Row> && has_code<Row, kKernel>(kHopperArchitecture, 0);
  return has_code<Row, kKernel>(architecture, 0);
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

// The place of a row in a table; -1 if it has no such row.
template <typename... Rows, typename Matches>
constexpr int find_row(Table<Rows...>, const Matches &matches) {
  int at = -1;
  return ((++at, matches(Rows{})) || ...) ? at : -1;
}

// Whether a kernel of backward_dy with code for an architecture has both tiles.
template <typename... Kernels>
constexpr bool has_dy(Table<Kernels...>, int architecture, const Tile &shrink, const Tile &strip) {
  return ((find_row(typename Kernels::Shrink{}, [&](auto row) { return shrink.is(row); }) >= 0 &&
           find_row(typename Kernels::Strip{}, [&](auto row) { return strip.is(row); }) >= 0 &&
           !is_left_out<Kernel::kDy, Kernels>(architecture)) ||
          ...);
}

template <typename... Rows, typename Visit>
void for_each_row(Table<Rows...>, const Visit &visit) {
  (visit(Rows{}), ...);
}

}  // namespace lily::cuda
