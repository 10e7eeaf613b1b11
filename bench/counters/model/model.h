// A model of the time of each step of a call. Symbols as in docs/math.md.
//
// The time of a launch is the largest of
//
//   memory     bytes touched, and those read a second time, over the bandwidth of memory
//   L2         bytes requested over the bandwidth of L2
//   blocks     on the multiprocessor with the most blocks: the sum of the time for which its blocks occupy the matrix
//              units or shared memory; or, if that is longer, the time of its waves at the latency of their loads
//
// plus the prologue and tail of one wave and the gap between two launches. A block of a large rank that is alone on its
// multiprocessor adds its own prologue and tail to the time of its products. Everything is assumed to come from memory
// cold, all outputs to be required and to accumulate, and no token to be masked. The constants are published or
// reasoned; nothing was measured on a GPU.
#pragma once

#include "cuda/launch/constants.h"
#include "cuda/launch/plan.h"
#include "cuda/launch/walk.h"
#include "model/work.h"

namespace lily::cuda {

class Model {
 public:
  Model(const lily_problem &problem, EngineKind engine, bool has_token_weights, const TileRows &rows,
        const Device &device);

  Prediction predict(const Work &work) const;

  void add_cast(Work &work, const CastPlan &cast) const;

  // ---- Forward ----
  // `splits`: partial sums of h are written; 0: h.
  Work shrink(const ShrinkRow &row, int tile_tokens, int splits, bool shares_hidden) const;
  Work large_hidden(const LargeRow &row, const ProductPlan &plan, bool shares_hidden) const;
  Work linear(const LargeRow &row, const ProductPlan &plan) const;
  Work route(int tile_tokens) const;                                                    // large ranks: from h
  Work route(int tile_tokens, int splits, bool shares_hidden, int shared_bytes) const;  // from partial sums of h
  Work pool(int threads) const;
  Work combine(int partial_count) const;  // partial sums of w; 0: w is given
  Work expand(const StripRow &row, const Walk &walk, int partial_count) const;
  Work mix(const MixRow &row, const Walk &walk, bool b_stays) const;
  Work form_u() const;
  Work large_y(const LargeRow &row, const ProductPlan &plan) const;
  Work decode(const DecodeRow &row, const DecodeStages &stages, int shared_bytes) const;

  // ---- Backward ----
  Work dy(const StripRow &row, const Walk &walk, const ShrinkRow &shrink, int tile_tokens, int outer_rows,
          bool completes) const;
  Work dy_columns(const StripRow &row, const Walk &walk) const;
  Work dy_tokens(const ShrinkRow &shrink, int tile_tokens, int d_weights_partials) const;
  Work dy_once(const OnceRow &row, const Walk &walk) const;
  Work d_hidden(int q_partials, int d_weights_partials, const BackwardPlan &plan) const;
  Work x(const StripRow &row, const Walk &walk, const BackwardPlan &plan) const;
  Work large_d_hidden(const LargeRow &row, const ProductPlan &plan, int d_weights_partials) const;
  Work large_dx(const LargeRow &row, const ProductPlan &plan) const;
  // D, and dA with dR; null: not in this launch.
  Work large_outer(const LargeRow &row, const Walk *dy, const Walk *x, const BackwardPlan &plan) const;
  Work reduce(int dy_splits, int x_splits, int outer_rows, int router_splits) const;

 private:
  // Clocks of a product of m x n x k by one block.
  double product_clocks(double m, double n, double k, const Warps &warps, double copied_bytes) const;
  double product_clocks(double m, double n, double k, const Warps &warps, double rate, double copied_bytes) const;
  double rows_copied(const LargeRow &row) const;
  double large_clocks(const LargeRow &row, double m, double n, double depth, double copied_rows) const;
  double result_clocks(double m, double n, double passes, double shared, double stored) const;
  void add_large_outer(Work &work, const LargeRow &row, const Walk &walk, double copies, double tail) const;
  Work large_product(const LargeRow &row, const ProductPlan &plan, double depth, double columns, double x_bytes,
                     double weight_bytes) const;
  Work large_output(const LargeRow &row, const ProductPlan &plan, double depth, double columns, double x_bytes,
                    double weight_bytes) const;
  double form_u_bytes(double width) const;
  void add_token_blocks(Work &work, const ShrinkRow &shrink, int tile_tokens, double blocks, bool completes,
                        int d_weights_partials) const;
  void add_column_blocks(Work &work, const StripRow &row, const Walk &walk, int outer_rows) const;
  void add_combine_blocks(Work &work) const;
  double add_completion(Work &work, double tiles, double blocks, double rows, double columns, int d_weights_partials,
                        int threads) const;
  void add_gradient(Work &work, double rows, double columns, int splits, double copies) const;
  void add_router_blocks(Work &work, const BackwardPlan &plan) const;
  double missing_share(double bytes) const;
  void add_sum_rows(Work &work, double rows, double columns, double blocks) const;
  double sum_rows_clocks(double rows, double columns, int threads) const;
  double gradient_clocks(const Tile &tile, int splits, double copies) const;
  double d_weights_clocks(double rows, double columns, int threads) const;
  void add_hidden_outputs(Work &work, bool shares_hidden) const;
  void add_route(Work &work, int blocks) const;
  double route_clocks(int tile_tokens, int threads) const;

  const lily_problem &problem_;
  const Device &device_;
  const Constants &constants_;
  const double tokens_, d_in_, d_out_, rank_, experts_, groups_;
  const double activation_, parameter_, hidden_, scalar_;  // bytes per element
  const bool has_token_weights_, routes_, per_token_, pools_logits_;
  double rate_;  // multiply-adds per clock and multiprocessor
};

}  // namespace lily::cuda
