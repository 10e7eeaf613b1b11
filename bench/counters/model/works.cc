#include "model/works.h"

#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

// `work`: the work of the blocks that combine.
Work casts(const Model &model, std::initializer_list<CastPlan> list, Work work = {}) {
  for (const CastPlan &cast : list)
    if (cast.casts) model.add_cast(work, cast);
  return work;
}

}  // namespace

std::vector<Work> works_of(const lily_problem &problem, const ForwardPlan &plan, const Device &device) {
  const TileRows &rows = tile_rows(plan.engine, device);
  const Model model(problem, plan.engine, plan.has_token_weights, rows, device);
  const int tokens = static_cast<int>(problem.tokens), rank = static_cast<int>(problem.rank);
  const int experts = static_cast<int>(problem.experts), d_out = static_cast<int>(problem.d_out);
  // Partial sums of w.
  const int partial_count = has_router(problem) && !plan.has_token_weights ? plan.token_tiles : 0;
  const auto work_of = [&](const Launch &launch) -> Work {
    switch (launch.step) {
      case Step::kCast: return casts(model, {plan.x_cast, plan.a_cast, plan.b_cast});
      case Step::kShrink:
      case Step::kSplitShrink:
        return model.shrink(row_of(rows.shrink, launch.tile), plan.tile_tokens, plan.depth_splits, plan.shares_hidden);
      case Step::kLargeShrink:
        return model.large_hidden(row_of(rows.large, launch.tile), plan.large_hidden, plan.shares_hidden);
      case Step::kRoute:
        if (plan.depth_splits == 0) return model.route(plan.route_tokens);
        return model.route(plan.route_tokens, plan.depth_splits, plan.shares_hidden, launch.shared_bytes);
      case Step::kPoolWeights: return model.pool(launch.threads);
      case Step::kCombine: return model.combine(partial_count);
      case Step::kExpand: {
        const StripRow &row = row_of(rows.expand, launch.tile);
        const WalkShape shape = {rank, tokens, d_out, experts};
        return model.expand(row, strip_walk(row, device, shape, true, false, plan.split_tokens), partial_count);
      }
      case Step::kMix: {
        const MixRow &row = row_of(rows.mix, launch.tile);
        const WalkShape shape = {experts * rank, tokens, d_out, experts};
        return model.mix(row, mix_walk(row, device, shape, rank, plan.b_stays, plan.split_tokens), plan.b_stays);
      }
      case Step::kFormU: return model.form_u();
      case Step::kLargeExpand: return model.large_y(row_of(rows.large, launch.tile), plan.large_y);
      case Step::kDecode:
        return model.decode(row_of(rows.decode, launch.tile), plan.decode_stages, launch.shared_bytes);
      default: return {};
    }
  };
  std::vector<Work> works;
  for (const Launch &launch : plan.launches) works.push_back(work_of(launch));
  return works;
}

std::vector<Work> works_of(const lily_problem &problem, const BackwardPlan &plan, const Device &device) {
  const TileRows &rows = tile_rows(plan.engine, device);
  const Model model(problem, plan.engine, plan.has_token_weights, rows, device);
  const auto dy_row = [&](const Launch &launch) -> const DyRow & {
    return *std::find_if(rows.dy.begin(), rows.dy.end(), [&](const DyRow &row) {
      return row.tokens.tile == launch.tile && row.columns.tile == launch.strip_tile;
    });
  };
  const auto work_of = [&](const Launch &launch) -> Work {
    const Walk &dy = plan.dy, &x = plan.x;
    switch (launch.step) {
      case Step::kCast:
        return casts(model, {plan.dy_cast, plan.x_cast, plan.hidden_cast, plan.a_cast, plan.b_cast},
                     plan.cast_combines ? model.combine(0) : Work{});
      case Step::kDy: {
        const DyRow &row = dy_row(launch);
        return model.dy(row.columns, dy, row.tokens, plan.tile_tokens, plan.outer_rows, plan.completes_d_hidden);
      }
      case Step::kDyColumns: return model.dy_columns(dy_row(launch).columns, dy);
      case Step::kDyTokens: return model.dy_tokens(dy_row(launch).tokens, plan.tile_tokens, plan.d_weights_partials);
      case Step::kDyOnce: return model.dy_once(row_of(rows.once, launch.tile), dy);
      case Step::kDHidden:
        return model.d_hidden(plan.reads_dy_once ? dy.column_tiles : 1, plan.d_weights_partials, plan);
      case Step::kX: return model.x(row_of(rows.x, launch.tile), x, plan);
      case Step::kLargeD: return model.large_outer(row_of(rows.large, launch.tile), &dy, nullptr, plan);
      case Step::kLargeDHidden:
        return model.large_d_hidden(row_of(rows.large, launch.tile), plan.large_d_hidden, plan.d_weights_partials);
      case Step::kLargeDx: return model.large_dx(row_of(rows.large, launch.tile), plan.large_dx);
      case Step::kLargeDa:
        return model.large_outer(row_of(rows.large, launch.tile), has_router(problem) ? nullptr : &dy, &x, plan);
      case Step::kReduce:
        return model.reduce(dy.splits, x.splits, plan.outer_rows, has_router(problem) ? plan.router_splits : 0);
      default: return {};
    }
  };
  std::vector<Work> works;
  for (const Launch &launch : plan.launches) works.push_back(work_of(launch));
  return works;
}

}  // namespace lily::cuda
