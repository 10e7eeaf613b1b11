// The C ABI of the CPU backend: runs the passes of a call on the thread pool.
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "core/workspace.h"
#include "cpu/amx/permission.h"
#include "cpu/optimiser.h"
#include "cpu/plan/cuts.h"
#include "cpu/plan/plan.h"
#include "cpu/plan/rows.h"
#include "cpu/processor.h"
#include "cpu/roofs.h"
#include "cpu/spectrum/spectrum.h"
#include "cpu/thread_pool.h"
#include "lily/cpu.h"
#include "system/memory.h"
#include "system/processor.h"

namespace lily::cpu {
namespace {

// Longer messages are cut.
thread_local char error_message[256] = "";

lily_status fail(lily_status status, std::string_view message) {
  const size_t length = std::min(message.size(), sizeof error_message - 1);
  memcpy(error_message, message.data(), length);
  error_message[length] = '\0';
  return status;
}

const char *last_error() { return error_message; }
const char *last_error_name() { return ""; }

lily_status check_available() {
  if (instruction_set().kernels == nullptr) return fail(LILY_ERROR_UNAVAILABLE, instruction_set().error);
  if (thread_count() == 0) {
    return fail(LILY_ERROR_UNAVAILABLE, "LILY_NUM_THREADS must be a whole number from 1 to " +
                                            std::to_string(kMaxThreads) + "; change it or unset it");
  }
  return LILY_OK;
}

lily_status check_workspace(const void *workspace, size_t given, size_t needed) {
  if (given >= needed && reinterpret_cast<uintptr_t>(workspace) % Workspace::kAlignment == 0) return LILY_OK;
  return fail(LILY_ERROR_ARGUMENT,
              "the workspace must have at least " + std::to_string(needed) + " bytes and be aligned to 64 bytes");
}

lily_status device_count(int32_t *count) {
  *count = 0;
  if (const lily_status status = check_available()) return status;
  *count = 1;
  return LILY_OK;
}

lily_status device_info(int32_t device, lily_device_info *info) {
  if (device != 0) return fail(LILY_ERROR_ARGUMENT, "the CPU backend has one device, number 0");
  *info = {};
  snprintf(info->name, sizeof info->name, "%s", system::processor_name().c_str());
  snprintf(info->detail, sizeof info->detail, "%s", instruction_set().effective_name());
  info->memory_bytes = system::memory_bytes();
  info->cache_bytes = system::cache_bytes();
  info->parallelism = thread_count();
  return LILY_OK;
}

lily_status device_ready(int32_t device) {
  if (device != 0) return fail(LILY_ERROR_ARGUMENT, "the CPU backend has one device, number 0");
  return check_available();
}

lily_status device_fall_back(int32_t) {
  return fail(LILY_ERROR_UNSUPPORTED, "the instruction set of the CPU backend does not change");
}

lily_status measure_roof(int32_t, int32_t roof, size_t bytes, double *rate) {
  if (const lily_status status = check_available()) return status;
  if (roof < LILY_ROOF_MULTIPLY_ADD || roof > LILY_ROOF_PRODUCT) return fail(LILY_ERROR_ARGUMENT, "unknown roof");
  if (roof == LILY_ROOF_PRODUCT) return fail(LILY_ERROR_UNAVAILABLE, "the CPU backend uses no library of the vendor");
  const InstructionSet &set = instruction_set();
  if (roof == LILY_ROOF_READ || roof == LILY_ROOF_UPDATE) {
    *rate = measure_memory_roof(*set.kernels, roof == LILY_ROOF_UPDATE, bytes);
  } else {
    *rate = measure_product_roof(roof == LILY_ROOF_BFLOAT16 ? set.bfloat16_kernels() : *set.kernels);
  }
  return *rate > 0.0
             ? LILY_OK
             : fail(LILY_ERROR_OUT_OF_MEMORY, "could not allocate " + std::to_string(bytes) + " bytes of host memory");
}

lily_status forward_workspace(const lily_problem *problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  lily_forward call = {};
  call.problem = *problem;
  *bytes = plan_forward(call, instruction_set().kernels_for(*problem)).workspace_bytes;
  return LILY_OK;
}

// Whether a call is so short that waking a thread would not pay: about a microsecond of multiply-adds.
bool is_short(double multiply_adds) { return multiply_adds < 32 * 1024; }

double multiply_adds(const lily_problem &problem) {
  const double rows = static_cast<double>(problem.rank) * static_cast<double>(problem.experts);
  const double tokens = static_cast<double>(problem.tokens);
  return rows * ((tokens + 1) * static_cast<double>(problem.d_out) + tokens * static_cast<double>(problem.d_in));
}

bool is_short(const lily_problem &problem) { return is_short(multiply_adds(problem)); }

// Runs the steps of a plan, each task with the scratch memory of its worker.
template <typename Pass>
void run(const Plan<Pass> &plan) {
  for (const Step<Pass> *step = plan.steps.begin(); step != plan.steps.end();) {
    const Step<Pass> *const first = step;
    parallel_for(plan.steps.skip_joined(step), [&](int64_t task, int64_t worker) { plan.run(first, task, worker); });
  }
}

lily_status forward(const lily_forward *call) {
  if (const lily_status status = check_available()) return status;
  const SerialScope scope(is_short(call->problem));
  const ForwardPlan plan = plan_forward(*call, instruction_set().kernels_for(call->problem));
  if (const lily_status status = check_workspace(call->workspace, call->workspace_bytes, plan.workspace_bytes)) {
    return status;
  }
  run(plan);
  return LILY_OK;
}

lily_status backward_workspace(const lily_problem *problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  lily_backward call = {};
  call.problem = *problem;
  *bytes = plan_backward(call, instruction_set().kernels_for(*problem)).workspace_bytes;
  return LILY_OK;
}

lily_status backward(const lily_backward *call) {
  if (const lily_status status = check_available()) return status;
  const SerialScope scope(is_short(call->problem));
  const BackwardPlan plan = plan_backward(*call, instruction_set().kernels_for(call->problem));
  if (const lily_status status = check_workspace(call->workspace, call->workspace_bytes, plan.workspace_bytes)) {
    return status;
  }
  run(plan);
  return LILY_OK;
}

// ---- Calls over disjoint rows ----

// The size depends on the problems, and on which calls have rows and factors.
template <typename Pass, typename List>
RowsPlan<Pass> plan_of(const List &list, void *workspace) {
  return plan_rows<Pass>(list.calls, list.count, workspace, [](const lily_problem &problem) -> const Kernels & {
    return instruction_set().kernels_for(problem);
  });
}

template <typename Pass, typename List>
lily_status rows_workspace(const List &list, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  *bytes = plan_of<Pass>(list, nullptr).workspace_bytes;
  return LILY_OK;
}

// The rows of `out` that no call has.
void clear_rows(const lily_matrix &out, int64_t columns, const int32_t *rest, int64_t count) {
  if (out.data == nullptr || out.accumulate != 0) return;
  const int64_t element_bytes = dtype_bytes(out.dtype);
  parallel_for(count, [&](int64_t i, int64_t) {
    memset(static_cast<char *>(out.data) + rest[i] * out.pitch * element_bytes, 0,
           static_cast<size_t>(columns * element_bytes));
  });
}

template <typename Pass, typename List>
lily_status run_rows(const List &list, const lily_matrix &out, int64_t columns) {
  if (const lily_status status = check_available()) return status;
  double work = 0.0;
  for (int64_t k = 0; k < list.count; ++k) work += multiply_adds(list.calls[k].problem);
  const SerialScope scope(is_short(work));
  const RowsPlan<Pass> rows = plan_of<Pass>(list, list.workspace);
  if (const lily_status status = check_workspace(list.workspace, list.workspace_bytes, rows.workspace_bytes)) {
    return status;
  }
  clear_rows(out, columns, list.rest, list.rest_count);
  while (const int64_t tasks = begin_round(rows)) {
    parallel_for(tasks, [&](int64_t task, int64_t worker) { run_task(rows, task, worker); });
  }
  return LILY_OK;
}

lily_status forward_rows_workspace(const lily_forward_rows *list, size_t *bytes) {
  return rows_workspace<ForwardPass>(*list, bytes);
}

lily_status forward_rows(const lily_forward_rows *list) { return run_rows<ForwardPass>(*list, list->y, list->d_out); }

lily_status backward_rows_workspace(const lily_backward_rows *list, size_t *bytes) {
  return rows_workspace<BackwardPass>(*list, bytes);
}

lily_status backward_rows(const lily_backward_rows *list) {
  return run_rows<BackwardPass>(*list, list->dx, list->d_in);
}

lily_status fold(const lily_fold *call) {
  if (const lily_status status = check_available()) return status;
  const Kernels &kernels = *instruction_set().kernels;
  const Partition tiles = plan_fold(*call, kernels);
  parallel_for(tiles.count, [&](int64_t tile, int64_t) { kernels.fold(*call, tiles, tile); });
  return LILY_OK;
}

LinearPlan plan_linear(const lily_linear &call) {
  return cpu::plan_linear(call, instruction_set().kernels_for(call.problem));
}

// The size depends on the problem alone, so that it is enough with and without a packed weight.
lily_status linear_workspace(const lily_linear_problem *problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  lily_linear call = {};
  call.problem = *problem;
  const size_t unpacked = plan_linear(call).workspace_bytes;
  call.packed = &call;  // the plan does not read it
  *bytes = std::max(unpacked, plan_linear(call).workspace_bytes);
  return LILY_OK;
}

lily_status linear(const lily_linear *call) {
  if (const lily_status status = check_available()) return status;
  const lily_linear_problem &problem = call->problem;
  const SerialScope scope(is_short(static_cast<double>(problem.tokens) * static_cast<double>(problem.d_in) *
                                   static_cast<double>(problem.d_out)));
  const LinearPlan plan = plan_linear(*call);
  if (const lily_status status = check_workspace(call->workspace, call->workspace_bytes, plan.workspace_bytes)) {
    return status;
  }
  run(static_cast<const Plan<LinearPass> &>(plan));
  return LILY_OK;
}

lily_status linear_packed_bytes(const lily_linear_problem *problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  lily_linear call = {};
  call.problem = *problem;
  *bytes = plan_linear(call).packed_bytes;
  return LILY_OK;
}

lily_status linear_pack(const lily_linear *call, void *packed) {
  if (const lily_status status = check_available()) return status;
  const LinearPlan plan = plan_linear(*call);
  if (plan.packed_bytes == 0) return LILY_OK;
  parallel_for(plan.pass.depth_pieces.count,
               [&](int64_t piece, int64_t) { plan.products->pack(plan.pass, piece, static_cast<float *>(packed)); });
  return LILY_OK;
}

const Kernels &kernels_for(const lily_matmul_problem &problem) {
  return instruction_set().kernels_for(linear_problem(problem));
}

lily_status matmul_workspace(const lily_matmul_problem *problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  lily_matmul call = {};
  call.problem = *problem;
  *bytes = plan_matmul(call, kernels_for(*problem)).workspace_bytes;
  return LILY_OK;
}

lily_status matmul(const lily_matmul *call) {
  if (const lily_status status = check_available()) return status;
  const lily_matmul_problem &problem = call->problem;
  const SerialScope scope(is_short(static_cast<double>(problem.outer * problem.inner) * static_cast<double>(problem.m) *
                                   static_cast<double>(problem.k) * static_cast<double>(problem.n)));
  const MatmulPlan plan = plan_matmul(*call, kernels_for(problem));
  if (const lily_status status = check_workspace(call->workspace, call->workspace_bytes, plan.workspace_bytes)) {
    return status;
  }
  run(plan);
  return LILY_OK;
}

// ---- Attention, which the table of the backend does not have ----

template <typename Call>
lily_status attention_workspace(const lily_cpu_attention_problem &problem, size_t *bytes) {
  if (const lily_status status = check_available()) return status;
  Call call = {};
  call.problem = problem;
  *bytes = plan_attention(call, *instruction_set().kernels).workspace_bytes;
  return LILY_OK;
}

template <typename Call>
lily_status run_attention(const Call &call) {
  if (const lily_status status = check_available()) return status;
  const lily_cpu_attention_problem &problem = call.problem;
  const SerialScope scope(
      is_short(static_cast<double>(problem.batch * problem.tokens) * static_cast<double>(problem.keys) *
               static_cast<double>(problem.heads * problem.d_head)));
  const auto plan = plan_attention(call, *instruction_set().kernels);
  if (const lily_status status = check_workspace(call.workspace, call.workspace_bytes, plan.workspace_bytes)) {
    return status;
  }
  run(plan);
  return LILY_OK;
}

lily_status elementwise(const lily_elementwise *call) {
  if (const lily_status status = check_available()) return status;
  constexpr int64_t kTileElements = 16 << 10;
  const bool sums = call->function == LILY_ELEMENTWISE_ROW_SUM;
  const int64_t width = std::max<int64_t>(1, sums ? call->columns : std::min(call->columns, kTileElements));
  const int64_t height = std::max<int64_t>(1, kTileElements / width);
  const Partition columns = {call->columns, width, sums ? 1 : divide_up(call->columns, width)};
  const Partition rows = {call->rows, height, divide_up(call->rows, height)};
  const SerialScope scope(is_short(static_cast<double>(call->rows) * static_cast<double>(call->columns)));
  const Kernels &kernels = *instruction_set().kernels;
  parallel_for(rows.count * columns.count, [&](int64_t task, int64_t) {
    const int64_t row = task / columns.count, column = task % columns.count;
    kernels.elementwise(*call, {rows.begin(row), rows.end(row), columns.begin(column), columns.end(column)});
  });
  return LILY_OK;
}

lily_status adamw_workspace(const lily_adamw *call, size_t *bytes) {
  *bytes = cpu::adamw_workspace(*call);
  return LILY_OK;
}

lily_status adamw(const lily_adamw *call) {
  if (const lily_status status = check_available()) return status;
  const size_t needed = cpu::adamw_workspace(*call);
  if (const lily_status status = check_workspace(call->workspace, call->workspace_bytes, needed)) return status;
  cpu::adamw(*call, *instruction_set().kernels);
  return LILY_OK;
}

lily_status allocate(int32_t, size_t bytes, void **memory) {
  *memory = system::allocate_aligned(Workspace::kAlignment, static_cast<size_t>(Workspace::padded(bytes)));
  if (*memory != nullptr) return LILY_OK;
  return fail(LILY_ERROR_OUT_OF_MEMORY, "could not allocate " + std::to_string(bytes) + " bytes of host memory");
}

lily_status release(int32_t, void *memory) {
  system::free_aligned(memory);
  return LILY_OK;
}

lily_status pointer_info(int32_t, const void *, lily_pointer_info *info) {
  *info = {};
  return LILY_OK;
}

lily_status copy(int32_t, void *destination, const void *source, size_t bytes, lily_stream) {
  memcpy(destination, source, bytes);
  return LILY_OK;
}

lily_status fill(int32_t, void *destination, uint8_t value, size_t bytes, lily_stream) {
  memset(destination, value, bytes);
  return LILY_OK;
}

// Every call is complete when it returns, so streams and events have no state.
lily_status stream_create(int32_t, lily_stream *stream) { return *stream = 0, LILY_OK; }
lily_status stream_destroy(int32_t, lily_stream) { return LILY_OK; }
lily_status stream_wait_event(int32_t, lily_stream, lily_event) { return LILY_OK; }
lily_status event_create(int32_t, int32_t, lily_event *event) { return *event = 0, LILY_OK; }
lily_status event_destroy(int32_t, lily_event) { return LILY_OK; }
lily_status event_record(int32_t, lily_event, lily_stream) { return LILY_OK; }
lily_status event_query(int32_t, lily_event, int32_t *ready) { return *ready = 1, LILY_OK; }
lily_status event_synchronize(int32_t, lily_event) { return LILY_OK; }
lily_status event_elapsed(int32_t, lily_event, lily_event, float *milliseconds) { return *milliseconds = 0, LILY_OK; }
lily_status no_graphs() { return fail(LILY_ERROR_UNSUPPORTED, "the CPU backend does not support graphs"); }
lily_status capture_begin(int32_t, lily_stream) { return no_graphs(); }
lily_status capture_end(int32_t, lily_stream, lily_graph *graph) { return *graph = 0, no_graphs(); }
lily_status graph_launch(int32_t, lily_graph, lily_stream) { return no_graphs(); }
lily_status graph_destroy(int32_t, lily_graph) { return no_graphs(); }
lily_status close() { return LILY_OK; }

// Runs `work` with the kernels of this processor. `work` returns false if there is no memory.
template <typename Work>
lily_status with_kernels(Work work) {
  if (const lily_status status = check_available()) return status;
  return work(*instruction_set().kernels)
             ? LILY_OK
             : fail(LILY_ERROR_OUT_OF_MEMORY, "could not allocate host memory for an analysis");
}

constexpr lily_backend kBackend = {
    .abi_version = LILY_ABI_VERSION,
    .name = "cpu",
    .last_error = last_error,
    .last_error_name = last_error_name,
    .device_count = device_count,
    .device_info = device_info,
    .device_ready = device_ready,
    .device_fall_back = device_fall_back,
    .measure_roof = measure_roof,
    .forward_workspace = forward_workspace,
    .forward = forward,
    .backward_workspace = backward_workspace,
    .backward = backward,
    .forward_rows_workspace = forward_rows_workspace,
    .forward_rows = forward_rows,
    .backward_rows_workspace = backward_rows_workspace,
    .backward_rows = backward_rows,
    .fold = fold,
    .draw = nullptr,
    .linear_workspace = linear_workspace,
    .linear = linear,
    .linear_packed_bytes = linear_packed_bytes,
    .linear_pack = linear_pack,
    .adamw_workspace = adamw_workspace,
    .adamw = adamw,
    .allocate = allocate,
    .release = release,
    .allocate_pinned = allocate,
    .release_pinned = release,
    .pointer_info = pointer_info,
    .copy = copy,
    .fill = fill,
    .stream_default = stream_create,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait_event = stream_wait_event,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .event_synchronize = event_synchronize,
    .event_elapsed = event_elapsed,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .graph_launch = graph_launch,
    .graph_destroy = graph_destroy,
    .close = close,
};

}  // namespace
}  // namespace lily::cpu

const lily_backend *lily_cpu_backend(void) { return &lily::cpu::kBackend; }

void lily_cpu_processor(lily_processor *processor) {
  std::string names;
  for (const char *name : lily::cpu::supported_instruction_sets()) {
    names += std::string(names.empty() ? "" : " ") + name;
  }
  const lily::system::ThreadLimits limits = lily::system::thread_limits();
  *processor = {};
  snprintf(processor->instruction_sets, sizeof processor->instruction_sets, "%s", names.c_str());
  processor->affinity = limits.affinity;
  processor->quota = limits.quota;
  processor->physical_cores = limits.physical_cores;
  const bool refused = lily::cpu::instruction_set().tiles != nullptr && lily::cpu::amx_refusal() != nullptr;
  if (refused) snprintf(processor->amx_refusal, sizeof processor->amx_refusal, "%s", lily::cpu::amx_refusal());
}

lily_status lily_cpu_matmul_workspace(const lily_matmul_problem *problem, size_t *bytes) {
  return lily::cpu::matmul_workspace(problem, bytes);
}

lily_status lily_cpu_matmul(const lily_matmul *call) { return lily::cpu::matmul(call); }

lily_status lily_cpu_attention_workspace(const lily_cpu_attention_problem *problem, size_t *bytes) {
  return lily::cpu::attention_workspace<lily_cpu_attention>(*problem, bytes);
}

lily_status lily_cpu_attention_forward(const lily_cpu_attention *call) { return lily::cpu::run_attention(*call); }

lily_status lily_cpu_attention_backward_workspace(const lily_cpu_attention_problem *problem, size_t *bytes) {
  return lily::cpu::attention_workspace<lily_cpu_attention_backward>(*problem, bytes);
}

lily_status lily_cpu_attention_backward_run(const lily_cpu_attention_backward *call) {
  return lily::cpu::run_attention(*call);
}

lily_status lily_cpu_elementwise(const lily_elementwise *call) { return lily::cpu::elementwise(call); }

lily_status lily_cpu_gram_factor(const double *x, int64_t r, int64_t columns, double *l) {
  return lily::cpu::with_kernels(
      [&](const auto &kernels) { return lily::cpu::gram_factor(kernels, x, r, columns, l); });
}

lily_status lily_cpu_congruence_eigenvalues(const double *l, const double *x, int64_t r, int64_t columns,
                                            double *values) {
  return lily::cpu::with_kernels(
      [&](const auto &kernels) { return lily::cpu::congruence_eigenvalues(kernels, l, x, r, columns, values); });
}
