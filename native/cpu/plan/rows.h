// The plans of calls over disjoint rows of one x and one y (lily_forward_rows, lily_backward_rows). Each is the plan of
// its call alone, so that the results have the bits of separate calls, but they run in rounds: a round is one pool call
// with the next step of every plan. A step depends on steps of its own plan only.
#pragma once

#include <algorithm>

#include "cpu/plan/plan.h"

namespace lily::cpu {

// They lie in the workspace before the arrays of all plans, so that a call allocates nothing.
template <typename Pass>
struct RowsPlan {
  // The step of a plan in this round, and the one after it and those that join it.
  struct Turn {
    const Step<Pass> *step, *next;
    int64_t first_task;  // of the round
  };

  Plan<Pass> *plans;
  Turn *turns;
  int64_t count;
  size_t workspace_bytes;
};

// `kernels_for`: of a problem. If `memory` is null, only the size is valid.
template <typename Pass, typename Call, typename KernelsFor>
RowsPlan<Pass> plan_rows(const Call *calls, int64_t count, void *memory, KernelsFor kernels_for) {
  Workspace workspace(memory);
  RowsPlan<Pass> rows = {};
  rows.count = count;
  rows.plans = workspace.take<Plan<Pass>>(count);
  rows.turns = workspace.take<typename RowsPlan<Pass>::Turn>(count);
  int64_t scratch_floats = 0;
  for (int64_t k = 0; k < count; ++k) {
    const Plan<Pass> plan = plan_call(calls[k], kernels_for(calls[k].problem), workspace);
    scratch_floats = std::max(scratch_floats, plan.scratch_floats);
    if (rows.plans != nullptr) rows.plans[k] = plan;
  }
  Plan<Pass> widest = {};
  widest.scratch_floats = scratch_floats;
  take_scratch(widest, workspace);
  rows.workspace_bytes = widest.workspace_bytes;
  for (int64_t k = 0; rows.plans != nullptr && k < count; ++k) {
    rows.plans[k].scratch = widest.scratch;
    rows.plans[k].scratch_floats = scratch_floats;
    const Step<Pass> *const step = rows.plans[k].steps.begin();
    rows.turns[k] = {step, step, 0};
  }
  return rows;
}

// Begins the next round, and returns the number of its tasks; 0: there are no more rounds.
template <typename Pass>
int64_t begin_round(const RowsPlan<Pass> &rows) {
  int64_t tasks = 0;
  for (int64_t k = 0; k < rows.count; ++k) {
    typename RowsPlan<Pass>::Turn &turn = rows.turns[k];
    turn.step = turn.next;
    turn.first_task = tasks;
    if (turn.step != rows.plans[k].steps.end()) tasks += rows.plans[k].steps.skip_joined(turn.next);
  }
  return tasks;
}

// Runs a task of the round. It belongs to the last plan whose tasks do not begin after it.
template <typename Pass>
void run_task(const RowsPlan<Pass> &rows, int64_t task, int64_t worker) {
  using Turn = typename RowsPlan<Pass>::Turn;
  const Turn *const after =
      std::upper_bound(rows.turns, rows.turns + rows.count, task,
                       [](int64_t position, const Turn &turn) { return position < turn.first_task; });
  const Turn &turn = after[-1];
  rows.plans[&turn - rows.turns].run(turn.step, task - turn.first_task, worker);
}

}  // namespace lily::cpu
