// How blocks divide a product: the choice of a row of the tile table and of the splits of the tokens.
#pragma once

#include <algorithm>

#include "cuda/launch/plan.h"
#include "cuda/tiles/rows.h"

namespace lily::cuda {

inline int ceil_divide(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
inline int round_up(int64_t a, int b) { return ceil_divide(a, b) * b; }

// Upper bound on a kernel's static shared memory.
constexpr int kStaticBytes = 1024;

// Dynamic shared memory that a block may have.
inline int most_shared_bytes(const Device &device) { return device.shared_bytes_per_block - kStaticBytes; }

// Larger ranks use the kernels of large_*.cuh.
constexpr int kLargeRank = 128;

// Minimum number of blocks that a launch aims for: one per multiprocessor, and 64 on any device.
inline int min_blocks(const Device &device) { return std::max(64, device.multiprocessors); }

// BLOCK_N of the shrink tiles: the smallest that is at least `rows`; if there is none, the largest.
int shrink_block_n(const TileRows &rows, int needed);

// The largest BLOCK_M of the shrink tiles with this BLOCK_N that fit into the device's shared memory.
int most_shrink_tokens(const TileRows &rows, const Device &device, int block_n);

// The first shrink tile that has this BLOCK_N and holds `tile_tokens` tokens, or null. Tiles of few tokens come first
// in the table.
const ShrinkRow *find_shrink_row(const TileRows &rows, int block_n, int tile_tokens);

// Tokens per block of a shrink kernel: a full tile if that gives enough blocks, otherwise fewer.
int shrink_tokens(int most, int tokens, const Device &device);

struct Split {
  int tokens;  // per split
  int count;
};

// Splits the tokens of a strip kernel into whole tiles, so that `column_tiles` * splits is about `blocks`.
Split split_tokens(int tokens, int tile_tokens, int column_tiles, int blocks);

struct WalkShape {
  int lhs_columns, tokens, columns, experts;
};

// Selects the tile of a strip kernel: BLOCK_K as given or, with 0, the smallest that holds all columns of lhs;
// BLOCK_N = 32 instead of 64 if that saves splits of a gradient; a smaller BLOCK_K if shared memory does not suffice.
// column_tiles 0: no tile fits.
Walk strip_walk(const TileRows &rows, const Device &device, const WalkShape &shape, bool expands, bool has_outer,
                int block_k = 0);

// Selects the largest tile that gives enough blocks. The tile with few rows is for few tokens, or if nothing larger
// fits (on Turing with many experts). Outer blocks iterate over tokens: tokens are split if one outer block would run
// longer than an average block's share of the work. column_tiles 0: no tile fits.
Walk large_walk(const TileRows &rows, const Device &device, const WalkShape &shape, bool expands, bool has_outer);

}  // namespace lily::cuda
