// The sizes of an engine's blocks, for the passes of blocked/ and for their plan. See engine.h.
#pragma once

#include <stdint.h>

namespace lily::cpu {

struct Blocking {
  int64_t step_depth;   // values of k per step of a packed operand
  int64_t block_rows;   // rows of a block of sums, and of a block of a left operand
  int64_t panel;        // columns of a block of sums, and of a panel of a right operand
  int64_t panel_bytes;  // of a packed right operand: one step of one panel
  int64_t block_bytes;  // of a packed left operand: one step of one block of rows

  // Values of k between two times that the sums of a product go to memory.
  int64_t chunk_depth;

  // Columns of y or dx whose sums a block of rows computes before it adds them, while k is at most chunk_depth.
  int64_t run_columns;

  // Up to this number of tokens a panel of a packed operand is used once, so other operands are packed, and in other
  // sizes.
  int64_t few_tokens;
  bool exchanges;  // with few tokens, the operand with the tokens is packed

  bool prefetches;  // results and left operands of short runs, which the hardware prefetcher does not find

  // The tasks of an outer product are as narrow as its sums in the cache, and sums over tokens are cut into pieces.
  bool many_tasks;

  // ---- The plan ----

  int64_t l2_bytes;      // of the L2 cache for which the next limit was chosen
  int64_t cached_bytes;  // the packed operand that a task keeps in the L2 cache while tokens pass
  int64_t packed_bytes;  // what a task may pack at once: it is read in order, so it may be larger
  int64_t sum_bytes;     // sums of an outer product
  int64_t widest_outer;  // columns of an outer product

  int64_t rank_unit;       // tiles of h or q that no other task packs are multiples of it
  int64_t widest_ranks;    // of a tile of h or q
  int64_t most_tokens;     // of a tile of h or q
  int64_t shared_ranks;    // from this rank on threads may share the columns of h and q, otherwise the tokens
  int64_t one_sweep_rank;  // up to this rank dy is read once
  int64_t by_panel_rank;   // up to this rank an outer product packs one panel at a time and uses it at once
};

}  // namespace lily::cpu
