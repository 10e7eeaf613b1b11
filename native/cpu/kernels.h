// What the orchestration (backend.cc) and the kernels (one copy per instruction set) say to each other.
//
// A pass is a function of a task number: the orchestration runs its tasks on the pool, in any order, on any thread. No
// task writes what another one reads or writes, and every sum has one fixed order that depends on the problem alone.
#pragma once

#include "core/adamw.h"
#include "core/problem.h"
#include "lily/backend.h"

// Always inlined: this header is compiled for several instruction sets, and a shared out-of-line copy of a function
// could be the one for a set that the processor lacks.
#define LILY_INLINE inline __attribute__((always_inline))

namespace lily::cpu {

// Columns in slabs of equal width; the last may be narrower.
struct Slabs {
  int64_t columns;
  int64_t width;
  int64_t count;

  LILY_INLINE int64_t begin(int64_t slab) const { return slab * width; }
  LILY_INLINE int64_t end(int64_t slab) const { return (slab + 1) * width < columns ? (slab + 1) * width : columns; }
};

// Where a C_g comes from: C_g = scaling * sum_e w_ge B_e with B_e = rows e * rank .. of b. Token routing is the case of
// one expert of rank E r and weight 1; LoRA that of one expert whose b is stored transposed, [d_out, r].
struct Mixture {
  lily_matrix b;
  int64_t experts;
  int64_t rank;
  bool transposed;
  float scaling;
  const float *weights;  // [G, experts]
};

// Tokens that the per-token steps (routing, gradient of the hidden) take at a time.
constexpr int64_t kTokenBlock = 64;

// The pooling groups of a call: token ranges, in order. Each is cut into blocks of kTokenBlock tokens that begin with
// it, so that nothing about a group depends on where in the batch it lies.
struct Groups {
  const int32_t *offsets;  // [count + 1], or null: one group of all tokens
  int64_t count;
  int64_t tokens;
  const int32_t *first_blocks;  // [count + 1], or null with offsets

  LILY_INLINE int64_t begin(int64_t group) const { return offsets == nullptr ? 0 : offsets[group]; }
  LILY_INLINE int64_t end(int64_t group) const { return offsets == nullptr ? tokens : offsets[group + 1]; }
  LILY_INLINE int64_t first_block(int64_t group) const {
    if (first_blocks != nullptr) return first_blocks[group];
    return group == 0 ? 0 : (tokens + kTokenBlock - 1) / kTokenBlock;
  }
  LILY_INLINE int64_t block_count() const { return first_block(count); }

  // The group that holds a token, and the one that holds a block: the first one that ends behind it.
  LILY_INLINE int64_t of_token(int64_t token) const {
    return first_ending_behind(token, [this](int64_t group) { return end(group); });
  }
  LILY_INLINE int64_t of_block(int64_t block) const {
    return first_ending_behind(block, [this](int64_t group) { return first_block(group + 1); });
  }

 private:
  template <typename End>
  LILY_INLINE int64_t first_ending_behind(int64_t position, End end_of) const {
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

struct ForwardPass {
  const lily_forward *call;
  Groups groups;
  Mixture mixture;

  // shrink: tasks = slabs of d_in x chunks of tokens; or, with many chunks, chunks that take all slabs in turn. Either
  // way the slabs' sums are added in order, and h is the same.
  Slabs shrink_slabs;
  int64_t packed_slabs;  // slabs of A in scratch at a time
  int64_t shrink_chunk;  // tokens in a chunk
  int64_t shrink_chunks;
  int64_t partial_count;  // slabs of partial: as many as shrink_slabs, or one
  int64_t rank_pitch;     // r in whole vectors
  float *partial;         // [slab][M][rank_pitch]

  // route: tasks = blocks of tokens
  lily_matrix hidden;        // M x r
  float *probabilities;      // M x E, may be null
  lily_matrix mixed_hidden;  // M x E r, u_t of token routing, else absent
  float *router_packed;      // r x expert_pitch, R^T
  int64_t expert_pitch;      // E in whole vectors
  float *pool_sums;          // [block][E]: sums of p, or of the logits, over the block's kept tokens

  // expand: tasks = slabs of d_out x chunks of tokens
  Slabs expand_slabs;
  int64_t expand_chunk;
  int64_t expand_chunks;
  lily_matrix left;  // M x mixture.rank: hidden or mixed_hidden
};

struct BackwardPass {
  const lily_backward *call;
  Groups groups;
  Mixture mixture;
  bool wants_hidden_gradient;  // any of dx, da, d_router
  bool wants_db;               // db or deferred_db
  bool deferred_is_weighted;

  // dy pass: tasks = slabs of d_out
  Slabs dy_slabs;
  int64_t dy_width;          // columns of a slab worked on at once, so that C and D stay in the cache
  int64_t token_step;        // tokens per outer product: long enough to pay for reading and writing the sums
  lily_matrix hidden;        // M x r
  lily_matrix mixed_hidden;  // M x E r, u_t of token routing, else absent
  lily_matrix left;          // M x mixture.rank: hidden or mixed_hidden
  int64_t left_pitch;        // mixture.rank in whole vectors
  float *q_partial;          // [slab][M][left_pitch]: v_t with token routing
  double *weight_gradient;   // [slab][G][E]: slab's share of dw
  bool wants_weight_gradient;
  lily_matrix db_sums;  // E r x d_out in float32, where a db of 16 bits is the sum of several groups; else absent

  // gradient of the hidden: tasks = blocks of tokens
  float *group_gradient;  // [G][E]: of a kept token's p (pool probabilities) or logits (pool logits)
  int64_t rank_pitch;     // r in whole vectors
  float *router_packed;   // E x rank_pitch
  float *dl;              // M x E
  float *dh;              // M x rank_pitch
  lily_matrix dh_left;    // the same as elements of the large products

  // x pass: tasks = slabs of d_in; dR: one task per slab of r
  Slabs x_slabs;
  Slabs router_slabs;
};

// A step of AdamW for one parameter.
struct AdamWUpdate {
  const lily_adamw_parameter *parameter;
  AdamWStep step;
  AdamWRate rate;
  float clip;  // times the gradient
};

// Independent chains of multiply-adds: more than any processor's latency times its units.
constexpr int64_t kRoofChains = 12;

struct Kernels {
  int64_t lanes;
  int64_t panel;      // columns of a panel: slab widths are multiples of it
  int64_t tile_rows;  // rows of a tile: chunks of tokens are multiples of it
  int32_t dtype;      // of the elements of the large products
  int64_t depth;      // values of k to a step of theirs, in the bytes of one float

  // Floats of scratch memory per thread.
  int64_t (*forward_scratch)(const ForwardPass &);
  int64_t (*backward_scratch)(const BackwardPass &);

  void (*shrink)(const ForwardPass &, int64_t task, float *scratch);
  void (*pack_router)(const ForwardPass &);
  void (*route)(const ForwardPass &, int64_t task, float *scratch);
  void (*expand)(const ForwardPass &, int64_t task, float *scratch);

  void (*mix_hidden)(const BackwardPass &, int64_t task);
  void (*dy_pass)(const BackwardPass &, int64_t task, float *scratch);
  void (*pack_router_rows)(const BackwardPass &);
  void (*hidden_gradient)(const BackwardPass &, int64_t task);
  void (*x_pass)(const BackwardPass &, int64_t task, float *scratch);
  void (*router_gradient)(const BackwardPass &, int64_t task, float *scratch);

  void (*fold)(const lily_fold &, const Slabs &, int64_t task);

  // Of the elements begin .. end - 1.
  double (*sum_of_squares)(const void *values, int32_t dtype, int64_t begin, int64_t end);
  void (*adamw)(const AdamWUpdate &, int64_t begin, int64_t end);

  // Roofs; each returns something that depends on all of its work.
  float (*roof_multiply_add)(int64_t steps);  // kRoofChains vectors of `depth` multiply-adds a lane, each step
  float (*roof_read)(const float *values, int64_t count);
  float (*roof_update)(float *values, int64_t count);
};

extern const Kernels kKernelsPortable;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx512Bf16;  // for activations in bfloat16
#elif defined(__aarch64__)
extern const Kernels kKernelsNeon;
#endif

}  // namespace lily::cpu
