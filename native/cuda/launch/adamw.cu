// Launches of one AdamW step: the sum of squares of the gradients, the norm, and the update. One launch holds at most
// kAdamWTensors parameters, so the first and the last kernel may be launched several times.
#include "core/workspace.h"
#include "cuda/kernels/adamw.cuh"
#include "cuda/launch/launch.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

int64_t blocks_of(const lily_adamw_parameter &parameter) { return (parameter.count + kAdamWSplit - 1) / kAdamWSplit; }

int64_t blocks_of(const lily_adamw &call) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < call.parameter_count; ++i) blocks += blocks_of(call.parameters[i]);
  return blocks;
}

// Maximum number of blocks per launch. A parameter that needs more blocks would occupy 16 TB.
constexpr int64_t kMostBlocks = INT32_MAX;

// Packs the parameters that have elements into launches, as many per launch as fit, and calls run(batch, blocks) for
// each.
template <typename Run>
lily_status for_each_batch(const lily_adamw &call, AdamW batch, const Run &run) {
  int64_t blocks = 0;
  batch.count = 0;
  const auto flush = [&] {
    if (batch.count == 0) return LILY_OK;
    const lily_status status = run(batch, static_cast<int>(blocks));
    if (batch.partials != nullptr) batch.partials += blocks;
    batch.count = 0, blocks = 0;
    return status;
  };
  for (int64_t i = 0; i < call.parameter_count; ++i) {
    const lily_adamw_parameter &parameter = call.parameters[i];
    if (parameter.count == 0) continue;
    if (batch.count == kAdamWTensors || blocks + blocks_of(parameter) > kMostBlocks) LILY_TRY(flush());
    batch.tensors[batch.count++] = {
        .value = parameter.value,
        .grad = const_cast<void *>(parameter.grad),
        .exp_avg = parameter.exp_avg,
        .exp_avg_sq = parameter.exp_avg_sq,
        .count = parameter.count,
        .rate = adamw_rate(call, parameter),
        .value_dtype = static_cast<int16_t>(parameter.value_dtype),
        .grad_dtype = static_cast<int16_t>(parameter.grad_dtype),
        .first_block = static_cast<int>(blocks),
    };
    blocks += blocks_of(parameter);
  }
  return flush();
}

}  // namespace

void load_adamw(KernelLoader &load) {
  load(adamw_squares<void>);
  load(adamw_norm<void>);
  load(adamw_update<void>);
}

lily_status adamw_workspace(const lily_adamw *call, size_t *bytes) {
  Workspace workspace(nullptr);
  workspace.take<AdamWDecision>(1);
  workspace.take<float>(blocks_of(*call));
  *bytes = workspace.bytes();
  return LILY_OK;
}

lily_status adamw(const lily_adamw &call, const Device &device) {
  size_t needed = 0;
  LILY_TRY(adamw_workspace(&call, &needed));
  if (call.workspace_bytes < needed)
    return fail(LILY_ERROR_ARGUMENT, "the workspace has %zu bytes, %zu are needed", call.workspace_bytes, needed);
  Launcher launcher(call.stream, device);
  Workspace workspace(call.workspace);
  auto *const decision = workspace.take<AdamWDecision>(1);
  auto *const partials = workspace.take<float>(blocks_of(call));
  AdamW batch = {};
  batch.step = adamw_step(call);
  batch.max_norm = call.max_norm;
  batch.norm = call.norm;
  if (call.norm != nullptr || call.skipped != nullptr) {
    batch.partials = partials;
    LILY_TRY(for_each_batch(call, batch, [&](const AdamW &squares, int blocks) {
      return launcher.launch(adamw_squares<void>, "launching the adamw_squares kernel", dim3(blocks), 0, squares);
    }));
    LILY_TRY(launcher.launch(adamw_norm<void>, "launching the adamw_norm kernel", dim3(1), 0,
                             AdamWNorm{.partials = partials,
                                       .count = blocks_of(call),
                                       .norm = call.norm,
                                       .skipped = call.skipped,
                                       .decision = decision,
                                       .beta1 = call.beta1,
                                       .beta2 = call.beta2,
                                       .step = call.step}));
    batch.partials = nullptr;
    if (call.skipped != nullptr) batch.decision = decision;
  }
  return for_each_batch(call, batch, [&](const AdamW &update, int blocks) {
    return launcher.launch(adamw_update<void>, "launching the adamw_update kernel", dim3(blocks), 0, update);
  });
}

}  // namespace lily::cuda
