// The rows of the tile table as values: what a plan reads of them.
#pragma once

#include <span>

#include "cuda/tiles/table.h"

namespace lily::cuda {

// How the warps of a block divide its tile: each reads the fragments of its rows and of its columns.
struct Warps {
  int m, n;
};

struct ShrinkRow {
  Tile tile;
  int bytes;          // of shared memory
  int product_bytes;  // of them, for the product; the router's scratch memory follows
  int stages;
  Warps warps;
  int accumulators;  // per thread, including the halves of a split
  int threads;
};

struct StripRow {
  Tile tile;
  int (*bytes)(bool expands, bool has_outer, bool streams);
  Warps expand_warps, outer_warps;
  int expand_accumulators, outer_accumulators;
  int threads;
};

// The tiles of token blocks and of column blocks in one kernel of backward_dy.
struct DyRow {
  ShrinkRow tokens;
  StripRow columns;
};

struct MixRow {
  Tile tile;
  int (*bytes)(int experts, int rank, bool stays);
  Warps warps;
  int accumulators;
};

struct DecodeRow {
  Tile tile;
  int (*bytes)(int tokens, int rank, int experts, int groups, bool combines, int parameter_bytes,
               const DecodeStages &stages);
};

struct OnceRow {
  Tile tile;
  int bytes;
  int stages;
};

struct LargeRow {
  Tile tile;
  // Bytes of shared memory: large_product with an output, or with h or dh and the scratch memory of so many experts;
  // and large_outer.
  int output_bytes;
  int (*hidden_bytes)(int experts);
  int outer_bytes;
  bool continues;  // a block computes several tiles of an output in turn
  int stages;
  Warps warps;
  int accumulators;
  bool has_wgmma;

  int threads() const { return warps.m * warps.n * kWarp; }
};

struct TileRows {
  int scalar_bytes;  // of an element in a tile
  std::span<const ShrinkRow> shrink;
  std::span<const StripRow> expand;  // forward_expand
  std::span<const DyRow> dy;
  std::span<const StripRow> x;  // backward_x
  std::span<const MixRow> mix;
  std::span<const DecodeRow> decode;
  std::span<const OnceRow> once;
  std::span<const LargeRow> large;
};

// The rows of the engines whose elements have 2 or 4 bytes, if the code of a virtual architecture has kernels for them.
// The plan checks that a tile fits into the shared memory of the device.
const TileRows &tile_rows(int scalar_bytes, int architecture);

}  // namespace lily::cuda
