// Shapes of tiles, as data: each engine's rows, with the reason for each. The host picks a row by rank and by the
// number of blocks that it makes; kernels are compiled for these rows and no others.
#pragma once

#include "backward_dy_once.cuh"
#include "forward_expand.cuh"
#include "forward_shrink.cuh"
#include "forward_token.cuh"

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
  // often.
  using Shrink = Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 64, 16>,   // w is a quarter of x
                       ShrinkTile<E, 16, 32>, ShrinkTile<E, 64, 32>,   //
                       ShrinkTile<E, 16, 64>, ShrinkTile<E, 64, 64>,   // 128 accumulators
                       ShrinkTile<E, 16, 128>, ShrinkTile<E, 32, 128>  // 128 accumulators
                       >;
  // Tokens, rank, columns. 64 columns are a line of memory; 32 make twice the blocks where parts of a gradient, which
  // more splits would need, are large against x.
  using Strip = Table<StripTile<E, 64, 16, 64>,                            //
                      StripTile<E, 64, 32, 64>,                            //
                      StripTile<E, 64, 64, 64>, StripTile<E, 64, 64, 32>,  //
                      StripTile<E, 64, 128, 64>, StripTile<E, 64, 128, 32>>;
  // Shrink tile, E r. Fewer tokens than 64 would not pay for streaming B.
  using Token = Table<TokenTile<ShrinkTile<E, 64, 16>, 64>, TokenTile<ShrinkTile<E, 64, 32>, 64>>;
  // Rank: beyond 32 the parts of q and D are more than a second reading of dy.
  using Once = Table<OnceTile<E, 16>, OnceTile<E, 32>>;
};

// float32: half the tokens, for the numbers are twice as long; all rows within the 64 KiB of Turing.
template <typename Engine>
struct FloatTiles {
  using Shrink = Table<ShrinkTile<Engine, 16, 16>, ShrinkTile<Engine, 32, 16>,  //
                       ShrinkTile<Engine, 16, 64>, ShrinkTile<Engine, 32, 64>>;
  using Strip = Table<StripTile<Engine, 32, 16, 64>, StripTile<Engine, 32, 64, 32>>;
  using Token = Table<>;
  using Once = Table<>;  // arithmetic is their limit, not memory
};
template <>
struct Tiles<Exact> : FloatTiles<Exact> {};
template <>
struct Tiles<Tf32> : FloatTiles<Tf32> {};

// ---- Looking rows up ----

// The smallest rank of the table that holds `rank`, else its largest.
template <typename... Rows>
int fitting_rank(Table<Rows...>, int rank) {
  int best = 0, largest = 0;
  const auto look = [&](int row) {
    if (row >= rank && (best == 0 || row < best)) best = row;
    if (row > largest) largest = row;
  };
  (look(Rows::kRank), ...);
  return best != 0 ? best : largest;
}

// Calls take(row) for the first row that matches(row); false: there is none.
template <typename... Rows, typename Matches, typename Take>
bool with_row(Table<Rows...>, const Matches &matches, const Take &take) {
  return ((matches(Rows{}) ? (take(Rows{}), true) : false) || ...);
}

template <typename... Rows, typename Take>
void for_each_row(Table<Rows...>, const Take &take) {
  (take(Rows{}), ...);
}

}  // namespace lily::cuda
