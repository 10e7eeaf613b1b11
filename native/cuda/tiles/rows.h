// The rows of the tile table as values: what a plan reads of them.
#pragma once

#include <span>

#include "cuda/tiles/table.h"

namespace lily::cuda {

struct ShrinkRow {
  Tile tile;
  int bytes;          // of shared memory
  int product_bytes;  // of them, those of the product, which the router's scratch memory follows
};

struct StripRow {
  Tile tile;
  bool computes_both;
  int (*bytes)(bool expands, bool has_outer, bool streams);
};

struct TokenRow {
  Tile shrink, tile;
  int (*bytes)(int experts, int rank);
};

struct DecodeRow {
  Tile tile;
  int (*bytes)(int rank, int experts, int groups);
};

struct OnceRow {
  Tile tile;
  int bytes;
};

struct LargeRow {
  Tile tile;
  int (*bytes)(int experts);
};

struct TileRows {
  int scalar_bytes;  // of an element in a tile
  std::span<const ShrinkRow> shrink;
  std::span<const StripRow> strip;
  std::span<const TokenRow> token;
  std::span<const DecodeRow> decode;
  std::span<const OnceRow> once;
  std::span<const LargeRow> large;
};

// The rows of the engines whose elements have 2 or 4 bytes.
const TileRows &tile_rows(int scalar_bytes);

}  // namespace lily::cuda
