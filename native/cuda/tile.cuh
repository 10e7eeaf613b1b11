// Shapes of tiles, as data: each engine's rows, with the reason for each. The host picks a row by rank and by the
// number of blocks that it makes; kernels are compiled for these rows and no others.
#pragma once

#include "backward_dy_once.cuh"
#include "forward_decode.cuh"
#include "forward_expand.cuh"
#include "forward_shrink.cuh"
#include "forward_token.cuh"
#include "large_shrink.cuh"
#include "large_strip.cuh"

namespace lily::cuda {

template <typename... Rows>
struct Table {};

template <typename Engine>
struct Tiles;

// 16-bit operands on matrix units. All rows: four warps; up to 128 accumulators a thread; two blocks or more on a
// multiprocessor of 100 KiB.
template <typename T>
struct Tiles<Tensor<T>> {
  using E = Tensor<T>;
  // Tokens, rank. With few tokens 16 (of which 8 may be used) make enough blocks; with many, a block reads w less
  // often. Three sums for each element: two halves, and what is added of chunks.
  using Shrink = Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 64, 16>,   // w is a quarter of x; decoding: a chunk at once
                       ShrinkTile<E, 16, 32>, ShrinkTile<E, 64, 32>,   //
                       ShrinkTile<E, 16, 64>, ShrinkTile<E, 64, 64>,   // 96 accumulators
                       ShrinkTile<E, 16, 128>, ShrinkTile<E, 32, 128>  // 96 accumulators
                       >;
  // Tokens, rank, columns. 64 columns are a line of memory; 32 make twice the blocks where parts of a gradient, which
  // more splits would need, are large against x.
  using Strip = Table<StripTile<E, 64, 16, 64>,                            //
                      StripTile<E, 64, 32, 64>,                            //
                      StripTile<E, 64, 64, 64>, StripTile<E, 64, 64, 32>,  //
                      StripTile<E, 64, 128, 64>, StripTile<E, 64, 128, 32>>;
  // Shrink tile, E r. Fewer tokens than 64 would not pay for streaming B.
  using Token = Table<TokenTile<ShrinkTile<E, 64, 16>, 64>, TokenTile<ShrinkTile<E, 64, 32>, 64>>;
  // Tokens: up to 16 take one row of blocks of the matrix units; else four, of which some may be zeros.
  using Decode = Table<DecodeTile<E, 16>, DecodeTile<E, kDecodeTokens>>;
  // Rank: beyond 32 the parts of q and D are more than a second reading of dy.
  using Once = Table<OnceTile<E, 16>, OnceTile<E, 32>>;
  // Rows, columns, depth of a stage, stages; the largest that makes blocks enough is taken. Per step of 16, clocks of
  // shared memory (4 per fragment, and the copies) against those of the matrix units (2 per instruction on A100, 1 on
  // H100, whose units only wgmma keeps busy):
  using Large = Table<
      // 128 accumulators, 2 blocks in 140 KiB. Fragments 128, copies 64: 192 to 256, all of A100's rate but for
      // barriers (expect 80 %), two thirds of what mma.sync has on H100.
      LargeTile<E, 128, 128, 32, 4>,
      // 32 accumulators, 2 to 4 blocks in 48 KiB each. 64 and 32: 96 to 64, two thirds of A100's rate, a third of
      // H100's.
      LargeTile<E, 64, 64, 64, 3>,
      // Few tokens: the rows of A or the columns of B, once each, are what takes time; many blocks, deep copies.
      LargeTile<E, 16, 32, 64, 6>>;
};

// float32: half the tokens, for the numbers are twice as long; all rows within the 64 KiB of Turing.
template <typename Engine>
struct FloatTiles {
  using Shrink = Table<ShrinkTile<Engine, 16, 16>, ShrinkTile<Engine, 32, 16>,  //
                       ShrinkTile<Engine, 16, 64>, ShrinkTile<Engine, 32, 64>>;
  using Strip = Table<StripTile<Engine, 32, 16, 64>, StripTile<Engine, 32, 64, 32>>;
  using Token = Table<>;
  using Decode = Table<DecodeTile<Engine, 16>, DecodeTile<Engine, kDecodeTokens>>;
  using Once = Table<>;  // arithmetic is their limit, not memory
  using Large = Table<LargeTile<Engine, 64, 64, 32, 3>, LargeTile<Engine, 16, 32, 32, 6>>;
};
template <>
struct Tiles<Exact> : FloatTiles<Exact> {};
template <>
struct Tiles<Tf32> : FloatTiles<Tf32> {};

// ---- Looking rows up ----

// The smallest rank of the table that holds `rank`, else its largest.
template <typename... Rows, typename Size>
int fitting_size(Table<Rows...>, int rank, const Size &size_of) {
  int best = 0, largest = 0;
  const auto consider = [&](int size) {
    if (size >= rank && (best == 0 || size < best)) best = size;
    if (size > largest) largest = size;
  };
  (consider(size_of(Rows{})), ...);
  return best != 0 ? best : largest;
}

// Calls take(row) for the first row that matches(row); false: there is none.
template <typename... Rows, typename Matches, typename Visit>
bool with_row(Table<Rows...>, const Matches &matches, const Visit &visit) {
  return ((matches(Rows{}) ? (visit(Rows{}), true) : false) || ...);
}

template <typename... Rows, typename Visit>
void for_each_row(Table<Rows...>, const Visit &visit) {
  (visit(Rows{}), ...);
}

}  // namespace lily::cuda
