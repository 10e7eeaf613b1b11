// How blocks divide a product: rows of the tile table, and splits of the tokens.
#pragma once

#include <algorithm>

#include "cuda/launch/plan.h"
#include "cuda/tiles/rows.h"

namespace lily::cuda {

// Larger ranks use the kernels of large_*.cuh.
constexpr int kLargeRank = 128;

// The first shrink tile that has this BLOCK_N and holds `tile_tokens` tokens, or null. Tiles of few tokens come first
// in the table.
const ShrinkRow *find_shrink_row(const TileRows &rows, int block_n, int tile_tokens);

// The dimensions of a strip or of an outer product.
struct WalkShape {
  int lhs_columns, tokens, columns, experts;
};

// The walk of a row of the table with splits of `split_tokens` tokens, rounded up to whole tiles; column_tiles 0: the
// tile does not fit into shared memory.
Walk strip_walk(const StripRow &row, const Device &device, const WalkShape &shape, bool expands, bool has_outer,
                int split_tokens);
Walk mix_walk(const MixRow &row, const Device &device, const WalkShape &shape, int rank, bool b_stays,
              int split_tokens);
Walk once_walk(const OnceRow &row, const Device &device, const WalkShape &shape, int split_tokens);
Walk large_walk(const LargeRow &row, const Device &device, const WalkShape &shape, int tile_rows, int split_tokens);

// Calls visit(rows per tile) with the divisions of `rows` that a choice considers: the fewest tiles of at most `most`
// rows, and one more, each of equal shares of whole units. A last tile with few rows would take as long as a full one
// where the tiles just fill the multiprocessors.
template <typename Visit>
void for_each_share(int rows, int most, int unit, const Visit &visit) {
  const int fewest = ceil_divide(rows, most), share = round_up(ceil_divide(rows, fewest), unit);
  visit(share);
  const int smaller = round_up(ceil_divide(rows, fewest + 1), unit);
  if (smaller < share) visit(smaller);
}

// Calls visit(tiles per block) with the numbers of an output's `tiles` that a block may compute in turn: also the
// number that gives each multiprocessor one block, alone if there is a single one.
template <typename Visit>
void for_each_count(const LargeRow &row, const Device &device, int64_t tiles, const Visit &visit) {
  const bool is_single = device.multiprocessors == 1;
  if (!row.continues || !is_single) visit(1);
  if (!row.continues) return;
  for (int each = 2; each <= 16 && !is_single; each *= 2) visit(each);
  const int all = ceil_divide(tiles, device.multiprocessors);
  if (all > 1 || is_single) visit(std::max(all, 1));
}

// The units of the rows and the columns of a large tile: fragments that its warps execute at the same time.
inline int row_unit(const LargeRow &row) { return row.has_wgmma ? kGroupRows : 16 * 4 / row.warps.n; }
inline int column_unit(const LargeRow &row) { return row.has_wgmma ? kGroupColumns : 8 * row.warps.n; }

// Calls visit(tokens per split) with the lengths that a choice considers: 1, 2, 3, 4, 6, 8, 12, ... units, all tokens,
// and the lengths that give each multiprocessor 1, 2, 3 or 4 blocks, if a split has `blocks` blocks: none, if there are
// no groups and therefore no rows.
template <typename Visit>
void for_each_split(int tokens, int unit, const Device &device, int blocks, const Visit &visit) {
  for (int64_t power = unit; power < tokens; power *= 2) {
    visit(static_cast<int>(power));
    if (power > unit && power / 2 * 3 < tokens) visit(static_cast<int>(power / 2 * 3));
  }
  visit(std::max(tokens, 1));
  for (int each = 1; each <= 4; ++each) {
    const int splits = each * device.multiprocessors / std::max(blocks, 1);
    if (splits > 1) visit(std::max(ceil_divide(tokens, splits), unit));
  }
}

}  // namespace lily::cuda
