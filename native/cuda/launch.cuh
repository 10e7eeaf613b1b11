// The launches of forward and backward for one engine: lays out the workspace, picks rows of the tile table, fills in
// the kernels' parameters. Included by one translation unit per engine.
#pragma once

#include "cuda/backward_dy.cuh"
#include "cuda/backward_x.cuh"
#include "cuda/launch.h"
#include "cuda/tile.cuh"

namespace lily::cuda {

// Errors of one launch after the other: the first one ends the call.
#define LILY_TRY(expression)                                \
  do {                                                      \
    const lily_status lily_try_status = (expression);       \
    if (lily_try_status != LILY_OK) return lily_try_status; \
  } while (false)

// What a kernel has of shared memory beside the part whose size the launch gives.
constexpr int kStaticBytes = 1024;

template <typename Engine>
struct Launches {
  using Scalar = typename Engine::Scalar;
  using ShrinkTable = typename Tiles<Engine>::Shrink;
  using StripTable = typename Tiles<Engine>::Strip;
  static constexpr int kVector = 16 / static_cast<int>(sizeof(Scalar));

  // ---- Forward ----

  static lily_status forward(const lily_forward &call, const Device &device, size_t *workspace_bytes) {
    const lily_problem &problem = call.problem;
    const int tokens = static_cast<int>(problem.tokens), rank = static_cast<int>(problem.rank);
    const int experts = static_cast<int>(problem.experts), groups = static_cast<int>(problem.groups);
    const bool mixes = mixes_per_token(problem, call.tokens.sequence_offsets != nullptr);
    const bool routes = has_router(problem);
    const bool pools_logits = problem.routing != LILY_ROUTING_TOKEN && problem.pool == LILY_POOL_LOGITS;
    const int shrink_rank = fitting_rank(ShrinkTable{}, rank);
    const int row_blocks = ceil_divide(rank, shrink_rank);
    const int tile_tokens = shrink_tokens(most_tokens(shrink_rank), tokens, device);
    const int tiles = ceil_divide(tokens, tile_tokens);
    const int hidden_pitch = round_up(rank, kVector);

    Workspace workspace(call.workspace);
    Scalar *own_hidden = workspace.take<Scalar>(problem.tokens * hidden_pitch);
    float *own_values = routes ? workspace.take<float>(problem.tokens * experts) : nullptr;
    float *partials = routes && !mixes ? workspace.take<float>(static_cast<int64_t>(tiles) * (experts + 1)) : nullptr;
    float *own_weights = mixes ? workspace.take<float>(problem.groups * experts) : nullptr;
    if (workspace_bytes != nullptr) {
      *workspace_bytes = workspace.bytes();
      return LILY_OK;
    }
    const auto stream = reinterpret_cast<cudaStream_t>(call.stream);
    if (tokens == 0) return forward_of_nothing(call, stream);

    // h, for backward and for the next phase: one matrix where its type and rows serve both.
    const Output hidden = contiguous_output(call.hidden, rank, problem.activation_dtype);
    const bool shares = call.hidden != nullptr && hidden.dtype == kDtype<Scalar> && hidden.wide;
    const Output expand = shares ? hidden : contiguous_output(own_hidden, hidden_pitch, kDtype<Scalar>);

    Route route = {};
    if (routes) {
      route.router = operand(call.router);
      route.experts = experts;
      route.rank = rank;
      route.pools_logits = pools_logits;
      const bool wanted = mixes || (call.probabilities != nullptr && !pools_logits);
      route.values = !wanted                                         ? nullptr
                     : pools_logits || call.probabilities == nullptr ? own_values
                                                                     : call.probabilities;
      route.partials = partials;
      route.mask = call.tokens.mask;
    }
    ForwardShrink first = {};
    first.operands = {operand(call.x), operand(call.a), tokens, static_cast<int>(problem.d_in), rank, tile_tokens};
    first.relu = problem.activation == LILY_ACTIVATION_RELU;
    first.hidden = hidden;
    if (!shares) first.expand = expand;
    if (row_blocks == 1) first.route = route;
    lily_status status = LILY_OK;
    with_row(
        ShrinkTable{}, [&](auto row) { return shrink_matches(row, shrink_rank, tile_tokens); },
        [&](auto row) {
          using Tile = decltype(row);
          const int routing = Tile::kProduct * 4 + route_bytes(Tile::kTokens, experts, rank);
          const int bytes = first.route.router.data == nullptr ? Tile::kBytes : std::max(Tile::kBytes, routing);
          status = launch(forward_shrink<Tile>, "launching the forward shrink kernel", dim3(tiles, row_blocks), bytes,
                          stream, first);
        });
    LILY_TRY(status);
    if (routes && row_blocks > 1) LILY_TRY(launch_route({expand.operand(), tokens, tile_tokens, route}, tiles, stream));

    const Groups group_list = {call.tokens.sequence_offsets, groups, tokens};
    float *group_weights = call.weights;
    if (problem.routing == LILY_ROUTING_SEQUENCE) {
      if (group_weights == nullptr) group_weights = own_weights;
      LILY_TRY(launch_pool({pools_logits ? PoolKind::kSoftmax : PoolKind::kMean, group_list, experts, route.values,
                            call.tokens.mask, group_weights, nullptr},
                           stream));
    }

    ForwardExpand second = {};
    StripOperands &strip = second.strip;
    strip.left.kind = mixes ? LeftKind::kMixed : LeftKind::kHidden;
    strip.left.hidden = expand.operand();
    strip.left.rank = rank;
    strip.left.columns = mixes ? experts * rank : rank;
    strip.left.router.experts = experts;
    if (mixes) {
      const bool per_token = problem.routing == LILY_ROUTING_TOKEN;
      strip.left.mixture = {per_token ? route.values : group_weights, group_list, experts, per_token};
      strip.w = operand(call.b);
    } else {
      second.pooled = 1;
      second.experts = {operand(call.b), experts, rank, static_cast<int>(problem.d_out),
                        problem.routing == LILY_ROUTING_NONE};
      second.weights = {WeightSource::kOne, call.weights, partials, tiles, experts};
      if (routes) second.weights.source = pools_logits ? WeightSource::kSoftmax : WeightSource::kMean;
      if (problem.routing == LILY_ROUTING_UNIFORM) second.weights.source = WeightSource::kUniform;
      if (problem.routing == LILY_ROUTING_FIXED) second.weights.source = WeightSource::kGiven;
      second.weights_out = problem.routing == LILY_ROUTING_FIXED ? nullptr : call.weights;
    }
    strip.out = output(call.y);
    strip.out_scale = problem.scaling;
    strip.tokens = tokens;
    strip.columns = static_cast<int>(problem.d_out);
    return with_strip(device, strip, true, false, 0, 0, "the forward expand kernel", [&](auto tile, const Walk &walk) {
      using Tile = decltype(tile);
      second.slices = walk.slices;
      return launch(forward_expand<Tile>, "launching the forward expand kernel", dim3(walk.slices * walk.splits),
                    walk.bytes, stream, second);
    });
  }

  // Without tokens only the weights have values: no group has a kept token.
  static lily_status forward_of_nothing(const lily_forward &call, cudaStream_t stream) {
    const lily_problem &problem = call.problem;
    if (call.weights == nullptr || !has_weights(problem) || problem.routing == LILY_ROUTING_FIXED) return LILY_OK;
    const float value = problem.routing == LILY_ROUTING_UNIFORM ? 1.0f / static_cast<float>(problem.experts) : 0.0f;
    return launch_write_weights(call.weights, problem.groups * problem.experts, value, stream);
  }

  // ---- Backward ----

  static lily_status backward(const lily_backward &call, const Device &device, size_t *workspace_bytes) {
    const lily_problem &problem = call.problem;
    const int tokens = static_cast<int>(problem.tokens), rank = static_cast<int>(problem.rank);
    const int experts = static_cast<int>(problem.experts), groups = static_cast<int>(problem.groups);
    const int d_in = static_cast<int>(problem.d_in), d_out = static_cast<int>(problem.d_out);
    const bool mixes = mixes_per_token(problem, call.tokens.sequence_offsets != nullptr);
    const bool routes = has_router(problem);
    const bool transposed = problem.routing == LILY_ROUTING_NONE;
    const bool one_hot = mixes && call.deferred_db != nullptr && !deferred_is_weighted(problem);
    const Groups group_list = {call.tokens.sequence_offsets, groups, tokens};

    // Phase 1 has two kinds of blocks with tiles of one rank: that of C or B, and that of D or dB.
    const int shrink_rows = mixes ? experts * rank : rank;
    const int outer_rows = !mixes ? rank : one_hot ? groups * rank : experts * rank;
    const int shrink_rank = fitting_rank(ShrinkTable{}, shrink_rows);
    const int tile_tokens = shrink_tokens(most_tokens(shrink_rank), tokens, device);
    const int token_blocks = ceil_divide(tokens, tile_tokens);
    const Walk dy_walk = walk(device, {outer_rows, tokens, d_out, experts}, false, true, shrink_rank);
    const Walk x_walk = walk(device, {rank, tokens, d_in, experts}, true, true, 0);
    const int q_pitch = round_up(rank, 4);
    const int c_pitch = round_up(d_out, kVector);
    const int router_ranges = ceil_divide(tokens, kRouterTokens);
    const int router_stride = round_up(experts * rank, 4);

    Workspace workspace(call.workspace);
    float *q = workspace.take<float>(problem.tokens * q_pitch);
    Scalar *c = mixes ? nullptr : workspace.take<Scalar>(static_cast<int64_t>(rank) * c_pitch);
    float *products = mixes && routes ? workspace.take<float>(problem.tokens * experts) : nullptr;
    float *losses =
        routes ? workspace.take<float>((mixes ? problem.groups : dy_walk.blocks_in_grid()) * experts) : nullptr;
    float *kept = routes ? workspace.take<float>(problem.groups) : nullptr;
    float *db_parts =
        dy_walk.splits > 1 ? workspace.take<float>(dy_walk.splits * part_size(outer_rows, d_out, transposed)) : nullptr;
    float *da_parts = x_walk.splits > 1 ? workspace.take<float>(x_walk.splits * part_size(rank, d_in, false)) : nullptr;
    float *router_parts = routes ? workspace.take<float>(static_cast<int64_t>(router_ranges) * router_stride) : nullptr;
    if (workspace_bytes != nullptr) {
      *workspace_bytes = workspace.bytes();
      return LILY_OK;
    }
    const auto stream = reinterpret_cast<cudaStream_t>(call.stream);

    const bool wants_db = call.db.data != nullptr || call.deferred_db != nullptr;
    const bool wants_router = routes && call.d_router.data != nullptr;
    const bool wants_q = call.dx.data != nullptr || call.da.data != nullptr;
    const bool wants_losses = routes && (wants_q || wants_router);
    const bool token_losses = problem.routing == LILY_ROUTING_TOKEN;
    const float *b_weights = mixes || transposed || call.deferred_db != nullptr ? nullptr : call.weights;
    const Output db =
        call.deferred_db != nullptr ? contiguous_output(call.deferred_db, d_out, LILY_FLOAT32) : output(call.db);

    Reduce reduce = {};
    int reduce_grid = 0;
    const auto add_job = [&](const float *parts, int64_t stride, int count, int pitch, int rows, int columns,
                             const float *weights, const Output &out) {
      reduce.jobs[reduce.count++] = {parts, stride, count, pitch, rows, columns, weights, experts, out, reduce_grid};
      reduce_grid += reduce_blocks(rows, columns);
    };
    if (wants_db && (dy_walk.splits > 1 || tokens == 0))
      add_job(db_parts, part_size(outer_rows, d_out, transposed), tokens == 0 ? 0 : dy_walk.splits,
              round_up(transposed ? rank : d_out, 4), transposed ? d_out : outer_rows, transposed ? rank : d_out,
              b_weights, db);
    if (call.da.data != nullptr && (x_walk.splits > 1 || tokens == 0))
      add_job(da_parts, part_size(rank, d_in, false), tokens == 0 ? 0 : x_walk.splits, round_up(d_in, 4), rank, d_in,
              nullptr, output(call.da));
    if (wants_router)
      add_job(router_parts, router_stride, router_ranges, rank, experts, rank, nullptr, output(call.d_router));

    if (tokens > 0) {
      const float *kept_count = routes && (mixes || call.tokens.mask != nullptr) ? kept : nullptr;
      if (!mixes && (wants_q || (wants_losses && kept_count != nullptr)))
        LILY_TRY(launch_combine(call, wants_q ? c : nullptr, c_pitch,
                                wants_losses && kept_count != nullptr ? kept : nullptr, stream));

      BackwardDy first = {};
      if (mixes ? wants_q || wants_losses : wants_q) {
        first.token_blocks = token_blocks;
        first.row_blocks = mixes ? 1 : ceil_divide(rank, shrink_rank);
      }
      first.shrink = {operand(call.dy), mixes ? operand(call.b) : contiguous(c, c_pitch, kDtype<Scalar>),
                      tokens,           d_out,
                      shrink_rows,      tile_tokens};
      first.pooled = !mixes;
      first.scale = problem.scaling;
      first.q = q;
      first.q_pitch = q_pitch;
      first.rank = rank;
      first.hidden = contiguous(call.hidden, rank, problem.activation_dtype);
      first.mixture = {token_losses ? call.probabilities : call.weights, group_list, experts, token_losses};
      first.expert_products = wants_losses && mixes ? products : nullptr;
      StripOperands &columns = first.strip;
      columns.left.kind = mixes ? LeftKind::kMixed : LeftKind::kHidden;
      columns.left.hidden = first.hidden;
      columns.left.rank = rank;
      columns.left.columns = outer_rows;
      columns.left.mixture = first.mixture;
      columns.left.one_hot = one_hot;
      columns.left.router.experts = experts;
      columns.x = operand(call.dy);
      columns.tokens = tokens;
      columns.columns = d_out;
      columns.split_tokens = dy_walk.split_tokens;
      first.slices = dy_walk.slices;
      first.splits = dy_walk.splits;
      first.blocks = wants_db || (wants_losses && !mixes) ? dy_walk.blocks : 0;
      first.target = {wants_db ? db : Output{},
                      wants_db ? db_parts : nullptr,
                      part_size(outer_rows, d_out, transposed),
                      round_up(transposed ? rank : d_out, 4),
                      outer_rows,
                      d_out,
                      transposed,
                      problem.scaling,
                      b_weights,
                      experts};
      if (wants_losses && !mixes) {
        first.experts = {operand(call.b), experts, rank, d_out, 0};
        first.expert_losses = losses;
      }
      LILY_TRY(launch_dy(first, dy_walk, shrink_rank, tile_tokens, stream));

      if (wants_losses && mixes && !token_losses)
        LILY_TRY(launch_pool({PoolKind::kSum, group_list, experts, products, call.tokens.mask, losses, kept}, stream));

      BackwardX second = {};
      StripOperands &strip = second.strip;
      strip.left.kind = LeftKind::kGradient;
      strip.left.hidden = first.hidden;
      strip.left.rank = strip.left.columns = rank;
      strip.left.q = q;
      strip.left.q_pitch = q_pitch;
      strip.left.relu = problem.activation == LILY_ACTIVATION_RELU;
      RouterGradient &router = strip.left.router;
      router.experts = experts;
      router.groups = group_list;
      if (routes) {
        const bool from_logits = !token_losses && problem.pool == LILY_POOL_LOGITS;
        router.loss = from_logits ? RouterLoss::kLogits : RouterLoss::kProbabilities;
        router.router = operand(call.router);
        router.probabilities = call.probabilities;
        router.weights = call.weights;
        router.expert_loss = token_losses ? products : losses;
        router.per_token = token_losses;
        router.parts = mixes ? 0 : dy_walk.blocks_in_grid();
        router.kept = token_losses || from_logits ? nullptr : kept_count;
        router.kept_constant = token_losses || from_logits ? 1.0f : static_cast<float>(tokens);
        router.mask = call.tokens.mask;
      }
      strip.w = operand(call.a);
      strip.out = output(call.dx);
      strip.out_scale = 1.0f;
      strip.x = operand(call.x);
      strip.tokens = tokens;
      strip.columns = d_in;
      strip.split_tokens = x_walk.split_tokens;
      second.slices = x_walk.slices;
      second.splits = x_walk.splits;
      const bool wants_da = call.da.data != nullptr;
      const int strips = x_walk.slices * x_walk.splits;
      if (x_walk.blocks == 1) {
        second.expand_blocks = wants_q ? strips : 0;
      } else {
        second.expand_blocks = call.dx.data != nullptr ? strips : 0;
        second.outer_blocks = wants_da ? strips * x_walk.blocks : 0;
      }
      second.target = {output(call.da),
                       wants_da ? da_parts : nullptr,
                       part_size(rank, d_in, false),
                       round_up(d_in, 4),
                       rank,
                       d_in,
                       0,
                       1.0f,
                       nullptr,
                       1};
      if (wants_router) {
        second.router_ranges = router_ranges;
        second.router_chunks = ceil_divide(experts * rank, kRouterElements);
        second.hidden = first.hidden;
        second.router_parts = router_parts;
      }
      second.rank = rank;
      LILY_TRY(launch_x(second, x_walk, stream));
    }
    return reduce_grid == 0 ? LILY_OK : launch_reduce(reduce, reduce_grid, stream);
  }

  static lily_status launch_combine(const lily_backward &call, Scalar *c, int c_pitch, float *kept,
                                    cudaStream_t stream) {
    const lily_problem &problem = call.problem;
    const int rank = static_cast<int>(problem.rank), experts = static_cast<int>(problem.experts);
    const int d_out = static_cast<int>(problem.d_out);
    Combine combined = {};
    combined.experts = {operand(call.b), experts, rank, d_out, problem.routing == LILY_ROUTING_NONE};
    combined.weights = {problem.routing == LILY_ROUTING_NONE ? WeightSource::kOne : WeightSource::kGiven, call.weights,
                        nullptr, 0, experts};
    combined.c = contiguous_output(c, c_pitch, kDtype<Scalar>);
    combined.mask = call.tokens.mask;
    combined.tokens = static_cast<int>(problem.tokens);
    combined.kept = kept;
    const dim3 blocks =
        c == nullptr ? dim3(1) : dim3(ceil_divide(d_out, kCombineColumns), ceil_divide(rank, kCombineRows));
    return launch(combine<Scalar>, "launching the combine kernel", blocks, 0, stream, combined);
  }

  // ---- Rows of the table ----

  // The largest tile of this rank.
  static int most_tokens(int rank) {
    int most = 0;
    for_each_shrink([&](auto row) {
      if (row.kRank == rank) most = std::max(most, row.kTokens);
    });
    return most;
  }

  template <typename Row>
  static bool shrink_matches(Row row, int rank, int tile_tokens) {
    // Tiles of few tokens come first and serve all counts that they hold.
    return row.kRank == rank && tile_tokens <= row.kTokens;
  }

  template <typename Take>
  static void for_each_shrink(const Take &take) {
    with_row(
        ShrinkTable{},
        [&](auto row) {
          take(row);
          return false;
        },
        [](auto) {});
  }

  // How a strip kernel goes over its matrices.
  struct Walk {
    int rank, columns;  // of the tile
    int slices, splits, blocks;
    int split_tokens;
    int bytes;
    int64_t blocks_in_grid() const { return static_cast<int64_t>(slices) * splits * blocks; }
  };

  struct WalkShape {
    int left_columns, tokens, columns, experts;
  };

  // Picks the tile: the rank as it is asked for, or the smallest that holds the left operand; 32 columns in place of 64
  // where that saves parts of a gradient; smaller ranks where shared memory does not suffice.
  static Walk walk(const Device &device, const WalkShape &shape, bool expands, bool has_outer, int rank) {
    if (rank == 0) rank = fitting_rank(StripTable{}, shape.left_columns);
    Walk best = {};
    for (; best.slices == 0 && rank >= 16; rank /= 2) {
      with_row(
          StripTable{},
          [&](auto row) {
            using Tile = decltype(row);
            if (Tile::kRank != rank) return false;
            Walk walk = {};
            walk.rank = rank;
            walk.columns = Tile::kColumns;
            walk.slices = ceil_divide(shape.columns, Tile::kColumns);
            walk.blocks = ceil_divide(shape.left_columns, rank);
            const Split split = split_tokens(shape.tokens, Tile::kTokens,
                                             walk.slices * (has_outer && !expands ? walk.blocks : 1), device);
            walk.splits = split.count;
            walk.split_tokens = split.tokens;
            walk.bytes = Tile::bytes(expands, has_outer, walk.blocks > 1, shape.experts);
            if (walk.bytes > device.shared_bytes_per_block - kStaticBytes) return false;
            if (best.slices == 0 || (has_outer && walk.splits < best.splits)) best = walk;
            return false;
          },
          [](auto) {});
    }
    return best;
  }

  template <typename Take>
  static lily_status with_strip(const Device &device, StripOperands &strip, bool expands, bool has_outer, int rank, int,
                                const char *name, const Take &take) {
    const Walk chosen = walk(device, {strip.left.columns, strip.tokens, strip.columns, strip.left.router.experts},
                             expands, has_outer, rank);
    strip.split_tokens = chosen.split_tokens;
    lily_status status = fail(LILY_ERROR_UNSUPPORTED, "%s needs more shared memory than a block may have", name);
    with_row(
        StripTable{}, [&](auto row) { return row.kRank == chosen.rank && row.kColumns == chosen.columns; },
        [&](auto row) { status = take(row, chosen); });
    return status;
  }

  static lily_status launch_dy(const BackwardDy &call, const Walk &walk, int shrink_rank, int tile_tokens,
                               cudaStream_t stream) {
    const int64_t blocks = static_cast<int64_t>(call.token_blocks) * call.row_blocks +
                           static_cast<int64_t>(call.slices) * call.splits * call.blocks;
    if (blocks == 0) return LILY_OK;
    lily_status status = fail(LILY_ERROR_UNSUPPORTED, "no tile of backward's first phase fits into shared memory");
    with_row(
        StripTable{}, [&](auto row) { return row.kRank == walk.rank && row.kColumns == walk.columns; },
        [&](auto strip) {
          using Strip = decltype(strip);
          with_row(
              ShrinkTable{},
              [&](auto row) { return row.kRank == Strip::kRank && shrink_matches(row, shrink_rank, tile_tokens); },
              [&](auto row) {
                using Shrink = decltype(row);
                if constexpr (Shrink::kRank == Strip::kRank) {
                  status = launch(backward_dy<Shrink, Strip>, "launching backward's first phase", dim3(blocks),
                                  std::max(Shrink::kBytes, walk.bytes), stream, call);
                }
              });
        });
    return status;
  }

  static lily_status launch_x(const BackwardX &call, const Walk &walk, cudaStream_t stream) {
    const int blocks = call.expand_blocks + call.outer_blocks + call.router_ranges * call.router_chunks;
    if (blocks == 0) return LILY_OK;
    lily_status status = fail(LILY_ERROR_UNSUPPORTED, "no tile of backward's second phase fits into shared memory");
    const int router_bytes =
        left_scratch(kRouterTile, call.strip.left.router.experts) * static_cast<int>(sizeof(float));
    with_row(
        StripTable{}, [&](auto row) { return row.kRank == walk.rank && row.kColumns == walk.columns; },
        [&](auto row) {
          status = launch(backward_x<decltype(row)>, "launching backward's second phase", dim3(blocks),
                          std::max(walk.bytes, router_bytes), stream, call);
        });
    return status;
  }

  static int64_t part_size(int rows, int columns, bool transposed) {
    return transposed ? static_cast<int64_t>(columns) * round_up(rows, 4)
                      : static_cast<int64_t>(rows) * round_up(columns, 4);
  }

  // ---- Attributes ----

  static lily_status prepare(const Device &device) {
    lily_status status = LILY_OK;
    const auto allow = [&](auto kernel) {
      if (status != LILY_OK) return;
      const cudaError_t error =
          cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device.shared_bytes_per_block - kStaticBytes);
      if (error != cudaSuccess) status = report(error, "setting the shared memory of a kernel");
    };
    for_each_shrink([&](auto row) { allow(forward_shrink<decltype(row)>); });
    with_row(
        StripTable{},
        [&](auto strip) {
          using Strip = decltype(strip);
          allow(forward_expand<Strip>);
          allow(backward_x<Strip>);
          for_each_shrink([&](auto row) {
            if constexpr (decltype(row)::kRank == Strip::kRank) allow(backward_dy<decltype(row), Strip>);
          });
          return false;
        },
        [](auto) {});
    return status;
  }
};

template <typename Engine>
constexpr EngineFunctions kFunctionsOf = {Launches<Engine>::forward, Launches<Engine>::backward,
                                          Launches<Engine>::prepare};

}  // namespace lily::cuda
