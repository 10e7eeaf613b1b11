// A step of AdamW on the thread pool, in tasks of a chunk of one parameter each.
#include "cpu/optimiser.h"

#include <math.h>

#include <algorithm>

#include "core/workspace.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

// Elements. Four arrays of it stay in the cache of a core, and a task of it outlasts the pool's dispatch by far. The
// sum of squares has a partial sum for each, so its order hangs on this number and not on the threads.
constexpr int64_t kChunk = 16384;

struct Chunk {
  const lily_adamw_parameter &parameter;
  int64_t begin, end;
};

struct Plan {
  int64_t *first_chunks;  // [parameters + 1]
  double *chunk_sums;     // [chunks]
  size_t workspace_bytes;
};

int64_t chunks_of(const lily_adamw_parameter &parameter) { return (parameter.count + kChunk - 1) / kChunk; }

Plan plan(const lily_adamw &call) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < call.parameter_count; ++i) chunks += chunks_of(call.parameters[i]);
  Workspace workspace(call.workspace);
  Plan plan = {};
  plan.first_chunks = workspace.take<int64_t>(call.parameter_count + 1);
  plan.chunk_sums = workspace.take<double>(chunks);
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Chunk chunk_of(const lily_adamw &call, const int64_t *first_chunks, int64_t task) {
  const int64_t *const behind = std::upper_bound(first_chunks, first_chunks + call.parameter_count + 1, task);
  const int64_t index = behind - first_chunks - 1;
  const lily_adamw_parameter &parameter = call.parameters[index];
  const int64_t begin = (task - first_chunks[index]) * kChunk;
  return {parameter, begin, std::min(begin + kChunk, parameter.count)};
}

}  // namespace

size_t adamw_workspace(const lily_adamw &call) { return plan(call).workspace_bytes; }

void adamw(const lily_adamw &call, const Kernels &kernels) {
  const Plan plan = cpu::plan(call);
  int64_t chunks = 0;
  for (int64_t i = 0; i < call.parameter_count; ++i) {
    plan.first_chunks[i] = chunks;
    chunks += chunks_of(call.parameters[i]);
  }
  plan.first_chunks[call.parameter_count] = chunks;

  float clip = 1.0f;
  if (call.norm != nullptr) {
    parallel_for(chunks, [&](int64_t task, int64_t) {
      const Chunk chunk = chunk_of(call, plan.first_chunks, task);
      plan.chunk_sums[task] =
          kernels.sum_of_squares(chunk.parameter.grad, chunk.parameter.grad_dtype, chunk.begin, chunk.end);
    });
    double sum = 0.0;
    for (int64_t task = 0; task < chunks; ++task) sum += plan.chunk_sums[task];
    *call.norm = static_cast<float>(sqrt(sum));
    clip = call.max_norm / (*call.norm + 1e-6f);
    if (clip > 1.0f) clip = 1.0f;  // a NaN stays one
  }

  const AdamWStep step = adamw_step(call);
  parallel_for(chunks, [&](int64_t task, int64_t) {
    const Chunk chunk = chunk_of(call, plan.first_chunks, task);
    const AdamWUpdate update = {&chunk.parameter, step, adamw_rate(call, chunk.parameter), clip};
    kernels.adamw(update, chunk.begin, chunk.end);
  });
}

}  // namespace lily::cpu
