// The plan of a call: its launches with their tiles, grids and shared memory, and the layout of its workspace. Symbols
// as in docs/math.md.
//
// A plan follows from the problem, from which operands are present, and from the properties of the device; it has no
// pointers, and it is host code that does not use CUDA. The tiles, the splits of the tokens and the size of the
// workspace do not depend on which outputs are present, so that one workspace suffices for every call of a problem and
// a gradient has the same bits whether or not others are requested.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <span>
#include <tuple>
#include <vector>

#include "cuda/device.h"
#include "cuda/tiles/table.h"
#include "lily/backend.h"

namespace lily::cuda {

inline int ceil_divide(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
inline int round_up(int64_t a, int b) { return ceil_divide(a, b) * b; }

// Dynamic shared memory that a block may have.
inline int most_shared_bytes(const Device &device) { return device.shared_bytes_per_block - kStaticBytes; }

// The arithmetic that a problem requires.
enum class EngineKind { kExact, kTf32, kBfloat16, kFloat16 };

// The steps of a call. Each is one launch; several steps may launch the same kernel. A call executes its steps in this
// order, each at most once.
enum class Step {
  kCast,          // cast: operands of products in the type of a tile; in backward also C, and the number of kept tokens
  kShrink,        // forward_shrink: h, and the router's result
  kSplitShrink,   // forward_shrink: partial sums of h
  kLargeShrink,   // large_product: h of a large rank
  kRoute,         // forward_route: h from partial sums, and the router's result
  kPoolWeights,   // pool: w of each sequence; without tokens of every group
  kScale,         // form_u: h with a factor for each token
  kFormU,         // form_u: u of a large rank, with weights per token
  kCombine,       // cast: C in forward
  kExpand,        // forward_expand: y, if one C serves all tokens
  kMix,           // forward_mix: y with weights per token
  kLargeExpand,   // large_product: y of a large rank
  kDecode,        // forward_decode: the rest of few tokens
  kDy,            // backward_dy: the products that read dy
  kDyColumns,     // backward_dy: of them D, and C
  kDyTokens,      // backward_dy: of them q, and dh, if kDyColumns was launched before
  kDyOnce,        // backward_dy_once: the products that read dy
  kLargeD,        // large_outer: D and dw of a large rank, with a router
  kDHidden,       // backward_hidden: dh and dl, if no other launch computes them
  kLargeDHidden,  // large_product: dh of a large rank
  kX,             // backward_x: the products that read dh
  kLargeDx,       // large_product: dx of a large rank
  kLargeDa,       // large_outer: dA of a large rank; dR, or D if there is no router
  kLinear,        // large_product: y of a frozen linear layer, or its dx
  kReduce         // reduce: the gradients of parameters from their partial sums
};

struct Grid {
  int x, y, z;

  int64_t blocks() const { return int64_t{x} * y * z; }
};

struct Launch {
  Step step;
  Tile tile;        // zeros if the kernel has no tiles
  Tile strip_tile;  // kDy: the tile of the column blocks
  Grid grid;
  int shared_bytes;  // dynamic
  int threads = kThreads;
};

struct Launches {
  static constexpr int kMost = 8;
  Launch list[kMost];
  int count;

  const Launch *begin() const { return list; }
  const Launch *end() const { return list + count; }
};

// The blocks that write C.
inline Grid combine_grid(int rank, int d_out) {
  return {ceil_divide(d_out, kCombineColumns), ceil_divide(rank, kCombineRows), 1};
}

// Offsets of intermediate arrays in the workspace: bytes from its beginning, or absent.
using Offset = int64_t;
constexpr Offset kAbsent = -1;

// How blocks divide the two dimensions of a product: `column_tiles` tiles of the columns, and `splits` of the tokens,
// each of `split_tokens` tokens, whose partial sums are added afterwards if tokens are summed over.
struct Walk {
  Tile tile;
  int shared_bytes;
  int column_tiles;
  int row_tiles;  // of the rank: tiles of the left operand's columns
  int tile_rows;  // columns of the left operand per tile
  int splits, split_tokens;

  // The same walk over another number of tokens.
  Walk over(int tokens) const {
    Walk walk = *this;
    walk.splits = std::max(1, ceil_divide(tokens, split_tokens));
    return walk;
  }

  int outer_blocks() const { return column_tiles * row_tiles * splits; }
};

// How blocks divide the result of large_product.
struct ProductPlan {
  int tile_columns;  // per tile
  int tiles_each;    // tiles that a block computes in turn
};

// An operand of products that `cast` copies to the workspace, because the main loops could not copy it to shared memory
// in whole vectors. The workspace has room for it if the problem says so: it is of another type than the tiles, its
// rows do not consist of whole vectors, or operands may be unaligned. Rows that are scattered, or have a factor each,
// count as not aligned.
struct CastPlan {
  int64_t rows, columns;
  int from_bytes;  // per element of the original
  int pitch;       // of the copy
  bool has_room, casts;
  Offset offset;
};

// Bytes of a vector. The main loops require rows of operands to begin at multiples of it.
constexpr int kRowAlignment = 16;
enum Alignment : uint8_t { kAligned, kMisaligned };

// What the plan depends on apart from the problem and the device.
struct ForwardOperands {
  bool has_offsets;
  bool has_weights;
  bool hidden_is_aligned;  // h is saved for backward, and its rows begin at multiples of 16 bytes
  bool has_scale = false;  // a factor for each token
  Alignment x = kAligned, a = kAligned, b = kAligned;
};

struct ForwardPlan {
  EngineKind engine;
  bool is_supported;  // false: no tile fits into the shared memory of the device
  Launches launches;

  bool has_token_weights;  // each token has weights of its own; otherwise one C = sum_e w_e B_e serves all tokens
  bool pools_logits;
  bool decodes;                       // few tokens: forward_decode
  bool shares_hidden;                 // the second phase reads the h that is saved for backward
  int tile_tokens;                    // per block of the first phase
  int route_tokens;                   // per block that routes
  bool routes_apart;                  // forward_route
  ProductPlan large_hidden, large_y;  // of a large rank
  int token_tiles;                    // blocks that route: each writes partial sums of w
  int depth_splits;                   // partial sums of h; 0: blocks of the first phase compute h
  int hidden_pitch, partial_pitch, c_pitch, u_pitch;
  int column_tiles, split_tokens;  // of the second phase
  bool b_stays;                    // forward_mix: all of a block's columns of B stay in shared memory
  DecodeStages decode_stages;      // forward_decode: of B

  CastPlan x_cast, a_cast, b_cast;
  Offset hidden, hidden_partials, scaled, values, pooling_partials, c, u, weights;
  size_t workspace_bytes;
};

struct BackwardOperands {
  bool has_offsets;
  bool has_mask;
  bool defers_db;
  bool has_dx, has_da, has_d_router, has_db, has_d_weights;
  Alignment dy = kAligned, x = kAligned, hidden = kAligned, a = kAligned, b = kAligned;
};

struct BackwardPlan {
  EngineKind engine;
  bool is_supported;
  Launches launches;

  bool has_token_weights;
  bool is_large;       // the rank is larger than any tile: kernels of large_*.cuh
  bool reads_dy_once;  // backward_dy_once
  bool one_hot;        // deferred dB of weights per token: one D per group instead of one dB per expert
  // Outputs and intermediate results that the present operands require.
  bool needs_db, needs_q, needs_d_weights, needs_d_router;
  bool counts_kept;         // one pooling group: the number of kept tokens is unknown to the host
  bool combines;            // C or the number of kept tokens
  bool cast_combines;       // in the launch of kCast; otherwise in the one that computes D
  bool d_first;             // one pooling group with a router: kDyColumns and kDyTokens instead of kDy
  bool completes_d_hidden;  // the token blocks of backward_dy complete dh

  int shrink_rows, outer_rows;   // rows of C or B; rows of D or dB
  int tile_tokens, token_tiles;  // backward_dy: tokens per token block, and token blocks per split
  int q_row_tiles;               // backward_dy: tiles of C's rows
  Walk dy, x;                    // products of dy; of dh; of large ranks those that sum over tokens
  ProductPlan large_d_hidden, large_dx;
  int dy_row_tiles;                 // 0: there are no column blocks
  int expand_blocks, outer_blocks;  // of the dh phase
  Grid combine_grid;                // of the blocks that combine
  int hidden_tokens;                // backward_hidden: tokens per block
  int d_weights_partials;
  int mixture_blocks;           // of `reduce`: a group each, for the gradient of given or learned weights
  bool reduces_db, reduces_da;  // from partial sums, or zeros if there are no tokens
  int router_splits, router_split_tokens, router_element_tiles;

  int q_pitch, c_pitch, d_hidden_pitch;
  int64_t db_partial, da_partial, router_partial;  // elements of one partial sum
  CastPlan dy_cast, x_cast, hidden_cast, a_cast, b_cast;
  Offset q, q_partials, c, d_hidden, d_logits, token_d_weights, d_weights, kept, db_partials, da_partials,
      router_partials;
  size_t workspace_bytes;
};

struct LinearPlan {
  EngineKind engine;
  bool is_supported;
  Launch launch;
  ProductPlan product;
  Launches casts;  // at most one
  CastPlan x_cast, weight_cast;
  size_t workspace_bytes;
};

// A launch of the plan of call number `call` of a list.
struct Member {
  int call;
  const Launch *launch;
};
using Members = std::span<const Member>;

// Calls visit(members) for each launch of a list: step by step, with the launches of all plans that have the step and
// the same tile. A step of a call depends on earlier steps of that call alone.
template <typename Plan, typename Visit>
lily_status for_each_step(const Plan *plans, int count, const Visit &visit) {
  thread_local std::vector<Member> all;
  all.clear();
  for (int call = 0; call < count; ++call)
    for (const Launch &launch : plans[call].launches) all.push_back({call, &launch});
  const auto kind = [](const Member &member) {
    const auto &[step, tile, strip, grid, shared_bytes, threads] = *member.launch;
    return std::tuple(step, tile.block_m, tile.block_n, tile.block_k, strip.block_m, strip.block_n, strip.block_k);
  };
  std::stable_sort(all.begin(), all.end(), [&](const Member &a, const Member &b) { return kind(a) < kind(b); });
  for (auto first = all.begin(); first != all.end();) {
    const auto last = std::find_if(first, all.end(), [&](const Member &next) { return kind(next) != kind(*first); });
    if (const lily_status status = visit(Members(first, last))) return status;
    first = last;
  }
  return LILY_OK;
}

// Restricts the choice to one row of the tables, for comparison; zeros: no restriction. Such a choice is not kept.
struct Restriction {
  Tile shrink, strip, large, mix;

  bool operator==(const Restriction &) const = default;
};

// A call of a list of `all_tokens` has the tiles of a call with all of them, where they do not change its bits: with
// those that it has alone, it would split d_in to fill the device, which the other calls fill.
ForwardPlan plan_forward(const lily_problem &problem, const ForwardOperands &operands, const Device &device,
                         const Restriction *only = nullptr, int64_t all_tokens = 0);
BackwardPlan plan_backward(const lily_problem &problem, const BackwardOperands &operands, const Device &device,
                           const Restriction *only = nullptr);

struct LinearOperands {
  Alignment x = kAligned, weight = kAligned;
};

LinearPlan plan_linear(const lily_linear_problem &problem, const LinearOperands &operands, const Device &device);

// The size of a workspace that is enough for every call of the problem.
size_t forward_workspace_bytes(const lily_problem &problem, const Device &device);
size_t backward_workspace_bytes(const lily_problem &problem, const Device &device);

}  // namespace lily::cuda
