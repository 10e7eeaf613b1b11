// The interface between the orchestration (backend.cc) and the kernels, which are compiled once per instruction set.
//
// A pass is a function of a task number. The thread pool runs the tasks of a pool call in any order and on any thread.
// No task writes memory that another task of the same call reads or writes, and every sum has one fixed order that
// depends on the problem alone. docs/math.md defines the symbols.
#pragma once

#include "core/adamw.h"
#include "core/problem.h"
#include "cpu/blocked/blocking.h"
#include "lily/cpu.h"

// Always inlined: several instruction sets compile this header. The linker keeps one out-of-line copy of an inline
// function, and that copy could use instructions that the processor lacks.
#if !defined(LILY_INLINE)
#define LILY_INLINE inline __attribute__((always_inline))
#endif

namespace lily::cpu {

// The columns of a matrix, cut into pieces of equal width; the last piece may be narrower. The pieces are `splits` if
// their partial sums are added into one result, and `tiles` if each piece yields its own part of the output.
struct Partition {
  int64_t columns;
  int64_t width;
  int64_t count;

  LILY_INLINE int64_t begin(int64_t index) const { return index * width; }
  LILY_INLINE int64_t end(int64_t index) const { return (index + 1) * width < columns ? (index + 1) * width : columns; }
};

// The rows of x, y, dy or dx that belong to the tokens of a call: token t has row listed[t] of the matrix, or row t if
// `listed` is null.
struct TokenRows {
  lily_matrix matrix;
  const int32_t *listed;

  LILY_INLINE int64_t of(int64_t token) const { return listed == nullptr ? token : listed[token]; }
};

// The B_e and the weights that combine them: scaling * C_g = scaling * sum_e w_ge B_e, where B_e is the rows
// e * rank to (e + 1) * rank - 1 of b. Token routing is the case of one expert of rank E r and weight 1. LoRA is the
// case of one expert whose b is stored transposed, [d_out, r].
struct ExpertStack {
  lily_matrix b;
  int64_t experts;
  int64_t rank;
  bool transposed;
  float scaling;
  const float *weights;  // [G, experts]
};

// Rows, which are ranks, and columns of d_out of the combined projector scaling * C_g.
struct CombinedPart {
  int64_t group;
  int64_t row, rows;
  int64_t column, columns;
};

// The pieces of a sum over tokens, which several threads compute. The sum of a piece starts at zero, and the sums are
// added in order. A range of fewer than 2 * shortest tokens is one piece.
struct TokenPieces {
  int64_t most;      // pieces of a range
  int64_t shortest;  // tokens of a piece, unless the range is shorter
  int64_t multiple;  // of the tokens of a piece

  LILY_INLINE int64_t length(int64_t tokens) const {
    const int64_t enough = tokens / shortest, count = enough < 1 ? 1 : enough < most ? enough : most;
    const int64_t multiples = (tokens + count * multiple - 1) / (count * multiple);
    return multiples < 1 ? multiple : multiples * multiple;
  }
  LILY_INLINE int64_t count(int64_t tokens) const {
    return tokens == 0 ? 1 : (tokens + length(tokens) - 1) / length(tokens);
  }
};

// The most tokens for which batch routing forms neither C nor D; see forward_direct.h and backward_direct.h.
constexpr int64_t kDirectTokens = 2;
// Rows of A or B that these passes read together.
constexpr int kDirectRows = 4;

// The most tokens for which forward of the register tile packs neither A nor C; see forward_few.h.
constexpr int64_t kFewTokens = 8;

// Tokens per tile of the per-token passes: routing, and the gradient of hidden.
constexpr int64_t kTokenTile = 64;
// Tokens per tile of the passes that gather listed rows.
constexpr int64_t kGatherTile = 16;

// The pooling groups of a call: ranges of tokens, in order. Each group is cut into tiles of kTokenTile tokens, and the
// first tile begins with the group, so that a group's results do not depend on its position in the batch.
struct Groups {
  const int32_t *offsets;  // [count + 1]; null: one group of all tokens
  int64_t count;
  int64_t tokens;
  const int32_t *first_tiles;   // [count + 1]; null if offsets is null
  const int32_t *first_steps;   // [count + 1], of steps of step_tokens; null if offsets is null
  int64_t step_tokens;          // of a packed left operand, see Blocking
  TokenPieces pieces;           // backward: of the sum over the tokens of a group
  const int32_t *first_pieces;  // [count + 1]; null if offsets is null

  LILY_INLINE int64_t begin(int64_t group) const { return offsets == nullptr ? 0 : offsets[group]; }
  LILY_INLINE int64_t end(int64_t group) const { return offsets == nullptr ? tokens : offsets[group + 1]; }
  LILY_INLINE int64_t first_tile(int64_t group) const {
    if (first_tiles != nullptr) return first_tiles[group];
    return group == 0 ? 0 : (tokens + kTokenTile - 1) / kTokenTile;
  }
  LILY_INLINE int64_t tile_count() const { return first_tile(count); }
  LILY_INLINE int64_t first_step(int64_t group) const {
    if (first_steps != nullptr) return first_steps[group];
    return group == 0 ? 0 : (tokens + step_tokens - 1) / step_tokens;
  }
  LILY_INLINE int64_t step_count() const { return first_step(count); }
  LILY_INLINE int64_t first_piece(int64_t group) const {
    if (first_pieces != nullptr) return first_pieces[group];
    return group == 0 ? 0 : pieces.count(tokens);
  }
  LILY_INLINE int64_t piece_count() const { return first_piece(count); }

  // The group that contains a token, a tile or a piece: the first group that ends after it.
  LILY_INLINE int64_t of_token(int64_t token) const {
    return first_ending_after(token, [this](int64_t group) { return end(group); });
  }
  LILY_INLINE int64_t of_tile(int64_t tile) const {
    return first_ending_after(tile, [this](int64_t group) { return first_tile(group + 1); });
  }
  LILY_INLINE int64_t of_piece(int64_t piece) const {
    return first_ending_after(piece, [this](int64_t group) { return first_piece(group + 1); });
  }

 private:
  template <typename End>
  LILY_INLINE int64_t first_ending_after(int64_t position, End end_of) const {
    int64_t low = 0, high = count - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (end_of(middle) > position) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

// Partial sums of rows of h, q or v: `count` arrays of rows x pitch floats, added in order. There is one for each split
// of d_in or d_out, or a single one, to which a task adds the splits in order.
struct RowPartials {
  float *data;
  int64_t count;
  int64_t rows;   // at least M
  int64_t pitch;  // columns rounded up to whole vectors

  LILY_INLINE float *row(int64_t index, int64_t token) const { return data + (index * rows + token) * pitch; }

  LILY_INLINE float *row_of_split(int64_t split, int64_t token) const { return row(count == 1 ? 0 : split, token); }
  LILY_INLINE bool accumulates(int64_t split) const { return count == 1 && split > 0; }
};

// The tokens and ranks of h or q that one task computes.
struct RankTile {
  int64_t token_begin, token_end;
  int64_t rank_begin, rank_end;

  LILY_INLINE int64_t ranks() const { return rank_end - rank_begin; }
};

// A product whose columns are ranks: h = x A^T, and q = s dy C^T where dy is read twice. Tasks: rank_tiles x
// token_tiles.
struct RankProduct {
  Partition rank_tiles;
  int64_t tile_tokens;
  int64_t token_tiles;

  // Blocked: the packed right operand.
  bool packs_own;        // each task packs its own columns, and `packed` does not exist
  Partition pack_tiles;  // of k: tasks of pack_shrink or pack_c
  float *packed;         // [panel of the rank][step of k]
  int64_t cached_depth;  // values of k whose packed operand the L2 cache holds

  LILY_INLINE int64_t tile_count() const { return rank_tiles.count * token_tiles; }
  LILY_INLINE RankTile tile(int64_t index, int64_t tokens) const {
    const int64_t rank_tile = index / token_tiles;
    const int64_t begin = index % token_tiles * tile_tokens, end = begin + tile_tokens;
    return {begin, end < tokens ? end : tokens, rank_tiles.begin(rank_tile), rank_tiles.end(rank_tile)};
  }
};

// The tiles of a product with as many columns as y or dx. Tasks: columns x token_tiles.
struct RowTiles {
  Partition columns;
  int64_t tile_tokens;
  int64_t token_tiles;
  int64_t slab;  // blocked: columns of C or A that the L2 cache holds
};

// What the passes of forward read, in their order. "Register tile" and "blocked" mark what one kind of products
// uses alone.
struct ForwardPass {
  const lily_forward *call;
  Groups groups;
  ExpertStack stack;
  TokenRows x_rows;  // blocked: gathered in the workspace, and then not listed
  TokenRows y_rows;

  // shrink: h = x A^T, before phi. Tasks: the product's, for each partial sum. A task of the register tile
  // computes one split of d_in, or, with many token tiles or a large rank, all splits. They are added in order in both
  // cases, so h is the same.
  RankProduct shrink;
  RowPartials hidden_partials;  // one per split, or one
  Partition shrink_splits;      // register tile: of d_in
  int64_t packed_splits;        // register tile: splits of A packed in scratch at a time
  bool shrink_exchanges;        // blocked: the tasks pack x^T instead of A^T

  // route. Tasks: tiles of kTokenTile tokens.
  float *weights;        // G x E: of the call, or in the workspace
  lily_matrix hidden;    // M x r
  float *probabilities;  // M x E; may be null
  lily_matrix u;         // M x stack.rank: c_t p_t (x) h_t with token routing, c_t h_t otherwise; absent without either
  int64_t router_columns;  // r; 1 of learned mixtures; 0 without a router
  float *router_packed;    // router_columns x expert_pitch: R^T, or the logits of a learned mixture
  int64_t expert_pitch;    // E rounded up to whole vectors
  float *pool_sums;        // [token tile][E]: sums of p_t, or of the logits, over the kept tokens of the tile; null
                           // without a router of tokens

  // expand: y (+)= lhs C.
  lily_matrix lhs;  // M x stack.rank: u, or hidden without it
  RowTiles expand;
};

// The dy pass: D, and q unless blocked/ reads dy twice. The pieces of a group's tokens (Groups) are added in order
// whatever the tasks are, so D is the same.
struct DyPass {
  Partition splits;  // of d_out: one partial sum of q each
  int64_t tasks;

  // Register tile. A task computes
  //   if D is stored                 one split, one piece and one tile of the rank
  //   if q has one partial sum       one tile of the rank, for all splits and tokens
  //   otherwise                      one split, for all tiles of the rank and all tokens
  Partition rank_tiles;      // d_weights.rank_tiles unless D is stored
  float *d_partials;         // [piece][rank tile][panel of d_out][rows of the tile][width]; null: not stored
  int64_t d_partial_floats;  // of a piece
  Partition d_sum_tiles;     // of d_out: tasks of add_d_partials

  // Blocked. Tasks: runs of task_splits splits, which loop over all tokens.
  bool computes_q;  // otherwise a separate product reads dy and computes q
  int64_t task_splits;
  int64_t tile_columns;  // whose sums of D stay in the cache
};

// dw = <B, D>, which the dy pass leaves in partial sums for pooling.
struct DWeights {
  double *partials;      // [count][G][E]
  int64_t count;         // panels of d_out x rank_tiles; blocked, direct: splits
  Partition rank_tiles;  // register tile
};

// The x pass: dA, and dx unless there is a dx pass.
struct XPass {
  Partition tiles;     // of d_in
  TokenPieces pieces;  // of the sum over tokens, dA
  int64_t tasks;       // tiles, which loop over all tokens; or, if dA is stored, pieces x tiles

  // Register tile.
  float *da_partials;         // [piece][panel of d_in][r][width]; null: not stored
  int64_t da_partial_floats;  // of a piece
};

// The gradient of the router. Tasks: tiles, which loop over all tokens.
struct RouterPass {
  Partition tiles;  // of r
  int64_t outer_product_tokens;
};

// What the passes of backward read, in their order, with the same marks.
struct BackwardPass {
  const lily_backward *call;
  Groups groups;
  ExpertStack stack;
  TokenRows dy_rows, x_rows;  // gathered in the workspace, and then not listed; dy times c_t
  TokenRows dx_rows;

  // What the outputs of the call require.
  bool needs_d_hidden;    // dx, da or the d_router of tokens is an output
  bool needs_d_weights;   // d_mixture is an output, or d_hidden is needed and depends on dw
  bool needs_db;          // db or deferred_db is an output
  bool needs_d_combined;  // D: for dw or dB
  bool deferred_is_weighted;
  const uint8_t *has_gradient;  // M: 0 for the tokens of a group without a kept token; null: 1 for all tokens

  // q and D.
  lily_matrix hidden;      // M x r
  lily_matrix u;           // M x E r: u_t = p_t (x) h_t, token routing only
  lily_matrix lhs;         // M x stack.rank: hidden, or u with token routing
  RowPartials q_partials;  // of q_t, or of v_t with token routing: one per split of dy, or one
  RankProduct q;           // blocked: of q_pass, unless the dy pass computes q
  DyPass dy;
  DWeights d_weights;
  lily_matrix d_mixture;  // out: the gradient of given weights, or of the logits of a learned mixture; may be absent
  lily_matrix db_sums;    // E r x d_out, float32: sums of a 16-bit db over several groups; otherwise absent

  // The gradient of hidden. Tasks: tiles of kTokenTile tokens.
  float *d_pooled;           // [G][E]: gradient of p_t (pool `probabilities`) or l_t (pool `logits`) of a kept token;
                             // d_mixture
  int64_t rank_pitch;        // r rounded up to whole vectors
  float *router_packed;      // E x rank_pitch: R
  float *d_logits;           // M x E
  float *d_hidden;           // M x rank_pitch
  lily_matrix d_hidden_lhs;  // d_hidden in the element type of the large products

  // dx, dA and dR.
  RowTiles dx;  // blocked
  XPass x;
  RouterPass router;

  float *lhs_packed;             // blocked: lhs^T, then dh^T
  int64_t outer_product_tokens;  // register tile: tokens per outer product of D and dA

  // Whether D itself is a result: a fold weights it later.
  LILY_INLINE bool defers_d() const { return call->deferred_db != nullptr && !deferred_is_weighted; }
  // What D or its weighted sums are written to: deferred_db, db_sums or db.
  LILY_INLINE lily_matrix db_target() const {
    if (call->deferred_db != nullptr) return {call->deferred_db, call->problem.d_out, LILY_FLOAT32, 0};
    return db_sums.data != nullptr ? db_sums : call->db;
  }
};

// The most tokens for which a frozen linear layer does not pack its weight.
constexpr int64_t kDirectLinearTokens = 8;

// The product of a frozen linear layer, see blocked/linear.h: out (+)= in rhs + bias, where rhs is W^T, or W if
// transposed. Both have a bias: the forward product of a weight that is stored as W^T is the transposed one.
struct LinearPass {
  const lily_linear *call;
  const float *packed;     // the packed weight of the call; null: the tasks pack theirs, or read it in place
  int64_t depth;           // k: d_in, or d_out if transposed
  int64_t columns;         // of out
  Partition depth_pieces;  // tasks of pack

  // Tasks: column_tiles x tiles of tokens. The tiles of columns are whole panels, and as even as these allow.
  int64_t column_tiles;
  int64_t panels, panel;
  int64_t widest_tile;  // columns
  int64_t tile_tokens;
  int64_t token_tiles;

  bool transposes_in;  // `in` is stored as [k, tokens]: a product of lily_matmul

  LILY_INLINE int64_t first_column(int64_t tile) const {
    return tile == column_tiles ? columns : tile * panels / column_tiles * panel;
  }
};

// Batched matrix products, see blocked/matmul.h: `product`, which has the first matrices, repeated with other
// matrices. Tasks: batches x the tasks of one product.
struct MatmulPass {
  const lily_matmul *call;
  lily_linear product;
  LinearPass linear;  // its `call` is set by each task

  LILY_INLINE int64_t product_tasks() const { return linear.column_tiles * linear.token_tiles; }
};

struct LinearProducts {
  const Blocking *blocking;
  int64_t (*scratch)(const LinearPass &);  // floats per thread
  void (*pack)(const LinearPass &, int64_t piece, float *packed);
  void (*linear)(const LinearPass &, int64_t task, float *scratch);

  // For at most kDirectLinearTokens tokens: the weight in place, see linear_direct.h. Null: the pass does not exist.
  int64_t (*direct_scratch)(const LinearPass &);
  void (*direct)(const LinearPass &, int64_t task, float *scratch);

  // The same products in a batch.
  void (*matmul)(const MatmulPass &, int64_t task, float *scratch);
  void (*matmul_direct)(const MatmulPass &, int64_t task, float *scratch);
};

// Attention, see attention.h. Tasks: heads x blocks of queries; of backward: heads.
struct AttentionPass {
  const lily_cpu_attention *call;
  Partition queries;
};
struct AttentionBackwardPass {
  const lily_cpu_attention_backward *call;
};
struct AttentionProducts {
  int64_t tile_rows;  // blocks of queries are multiples of it
  int64_t (*scratch)(const AttentionPass &);
  void (*forward)(const AttentionPass &, int64_t task, float *scratch);
  int64_t (*backward_scratch)(const AttentionBackwardPass &);
  void (*backward)(const AttentionBackwardPass &, int64_t task, float *scratch);
};

// The rows and the columns of an elementwise function, see elementwise.h, that one task computes.
struct ElementwiseTile {
  int64_t row, row_end;
  int64_t column, column_end;
};

// A step of AdamW for one parameter.
struct AdamWUpdate {
  const lily_adamw_parameter *parameter;
  AdamWStep step;
  AdamWRate rate;
  float clip;  // factor of the gradient
};

// One step of a Householder tridiagonalization; see reflect_row.
struct ReflectRow {
  const double *v, *p;  // S -= v p^T + p v^T
  const double *u;      // the vector that S is multiplied by after that
  double *product;      // a partial sum of S u
};

// A symmetric tridiagonal matrix.
struct Tridiagonal {
  const double *diagonal;
  const double *squares;  // squares[i]: of the element that couples i - 1 and i; squares[0] is 0
  int64_t n;
  double tiny;  // replaces a pivot of zero
};

// A task of a pass. `scratch` is memory of its own.
using ForwardTask = void (*)(const ForwardPass &, int64_t task, float *scratch);
using BackwardTask = void (*)(const BackwardPass &, int64_t task, float *scratch);

// The passes with the large products, for each way to compute them. scratch: floats per thread.
struct TileProducts {
  int64_t (*forward_scratch)(const ForwardPass &);
  int64_t (*backward_scratch)(const BackwardPass &);
  ForwardTask shrink, expand;
  BackwardTask dy_pass, add_d_partials, x_pass, add_da_partials;
};
struct BlockedProducts {
  const Blocking *blocking;
  int64_t (*forward_scratch)(const ForwardPass &);
  int64_t (*backward_scratch)(const BackwardPass &);
  ForwardTask pack_shrink, shrink, expand;
  BackwardTask pack_lhs, pack_c, q_pass, dy_pass;
  BackwardTask compute_and_pack_d_hidden, pack_d_hidden, dx_pass, da_pass;
};
struct DirectProducts {
  int64_t (*forward_scratch)(const ForwardPass &);
  int64_t (*backward_scratch)(const BackwardPass &);
  ForwardTask shrink, expand;
  BackwardTask dy_pass, x_pass;
};

// Rows of the rank in a chain of dw. Tiles of the rank are whole chains, so that dw does not depend on them.
constexpr int64_t kDotRows = 64;

// The largest rank whose products use the register tile wherever it can compute them. Above it they are bound by
// arithmetic.
constexpr int64_t kSmallRank = 64;

struct Kernels {
  int64_t lanes;
  int64_t panel;      // columns of a panel; the widths of splits and column tiles are multiples of it
  int64_t tile_rows;  // rows of a register tile; the token tiles of expand are multiples of it
  int32_t dtype;      // element type of the large products
  int64_t depth;      // values of k per step of the large products; a step has the size of a float

  const TileProducts *tile_products;  // null: blocked_products at every rank
  const BlockedProducts *blocked_products;
  const DirectProducts *direct_products;  // batch routing, at most kDirectTokens tokens
  const LinearProducts *linear_products;
  const AttentionProducts *attention_products;                             // of the kernels for float32
  void (*elementwise)(const lily_elementwise &, const ElementwiseTile &);  // of the kernels for float32

  ForwardTask gather_x, pack_router, route;
  BackwardTask gather_dy, gather_backward_x, compute_u, write_d_mixture, pack_router_rows, compute_d_hidden,
      compute_d_router;

  void (*fold)(const lily_fold &, const Partition &tiles, int64_t tile);

  // Both process the elements begin to end - 1.
  double (*sum_of_squares)(const void *values, int32_t dtype, int64_t begin, int64_t end);
  void (*adamw)(const AdamWUpdate &, int64_t begin, int64_t end);

  // Float64, for spectrum/spectrum.cc. A tile of a product has double_rows x double_columns elements; count_below takes
  // `shifts` values.
  int64_t double_rows, double_columns, shifts;
  void (*multiply_double_tile)(const double *a, const double *b, int64_t depth, double *c, int64_t pitch);
  void (*reflect_row)(const ReflectRow &, double *row, int64_t i);
  void (*count_below)(const Tridiagonal &, const double *x, int64_t *counts);

  // Roofs. Each returns a value that depends on all of its work, so that the compiler cannot remove any of it.
  double roof_step_flops;                 // FLOPs of a step of roof_products
  float (*roof_products)(int64_t steps);  // the multiply-adds of the large products
  float (*roof_read)(const float *values, int64_t count);
  float (*roof_update)(float *values, int64_t count);
};

// The direct products use no tiles, so that the two tables of AMX, and the two of its model, share theirs.
extern const DirectProducts kDirectAmx, kDirectAmxModel;

extern const Kernels kKernelsPortable;
extern const Kernels kKernelsAmxModel;  // the bits of kKernelsAmx on any processor, for tests
extern const Kernels kKernelsAmxTermsModel;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx512Bf16;  // for activations in bfloat16
extern const Kernels kKernelsAmx;         // for activations in bfloat16
extern const Kernels kKernelsAmxTerms;    // for float32 with precision `tf32`
#elif defined(__aarch64__)
extern const Kernels kKernelsNeon;
#endif

}  // namespace lily::cpu
