// The C ABI on CUDA devices. Memory, streams and events map to CUDA's; operations.h declares the operations.
#include "lily/backend.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>

#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/error.h"
#include "cuda/launch/cublaslt.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

cudaStream_t cuda_stream(lily_stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t cuda_event(lily_event event) { return reinterpret_cast<cudaEvent_t>(event); }

// Runs `work` in the context of the device.
template <typename Work>
lily_status on_device(int32_t id, Work work) {
  const Device *found = device(id);
  if (found == nullptr) return LILY_ERROR_UNAVAILABLE;
  DeviceGuard guard(id);
  if (const lily_status status = guard.status()) return status;
  if constexpr (std::is_invocable_v<Work, const Device &>) {
    Device executing = *found;
    executing.architecture = executed_architecture(id);
    return guard.explain(work(executing));
  } else {
    return guard.explain(work());
  }
}

// The same for work that releases something of the device. After a reset of the device there is nothing to release, and
// CUDA does not define what a call with the old pointer or handle does.
template <typename Work>
lily_status on_device_if_kept(int32_t id, Work work) {
  if (device(id) == nullptr) return LILY_ERROR_UNAVAILABLE;
  DeviceGuard guard(id);
  if (guard.context_is_lost()) return LILY_OK;
  if (const lily_status status = guard.status()) return status;
  const lily_status status = guard.explain(work());
  return guard.context_is_lost() ? LILY_OK : status;
}

// The backend's default stream of each device, created on first use.
std::mutex own_streams_mutex;
cudaStream_t own_streams[LILY_MAX_DEVICES];

lily_status create_stream(cudaStream_t *stream) {
  // The stream does not synchronise with the legacy default stream: callers that use the legacy stream order the
  // two with events.
  return report(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "creating a stream");
}

// Replaces stream 0 by the device's default stream. Requires the device's context.
lily_status resolve(int32_t id, lily_stream *stream) {
  if (*stream != 0) return LILY_OK;
  const std::lock_guard<std::mutex> lock(own_streams_mutex);
  if (own_streams[id] == nullptr) {
    if (const lily_status status = create_stream(&own_streams[id])) return status;
  }
  *stream = reinterpret_cast<lily_stream>(own_streams[id]);
  return LILY_OK;
}

// Held while a thread enqueues something in a stream: a call relies on its launches following each other. (The kernel
// of decoding reads B before it waits for the launch before, which must not be another thread's step that writes B.)
// Streams that share one wait for each other, which costs time only.
std::mutex &mutex_of(lily_stream stream) {
  static std::mutex mutexes[64];
  return mutexes[stream / 64 % 64];
}

template <typename Work>
lily_status on_stream(int32_t id, lily_stream stream, Work work) {
  return on_device(id, [&] {
    if (const lily_status status = resolve(id, &stream)) return status;
    const std::lock_guard<std::mutex> lock(mutex_of(stream));
    return work(stream);
  });
}

// Enqueues the launches of a call.
template <typename Call>
lily_status enqueue(Call call, const Device &device, lily_status (*run)(const Call &, const Device &)) {
  if (const lily_status status = resolve(device.id, &call.stream)) return status;
  const std::lock_guard<std::mutex> lock(mutex_of(call.stream));
  return run(call, device);
}

// Reads properties only: listing the devices creates no context.
lily_status device_info(int32_t id, lily_device_info *info) {
  if (device(id) == nullptr) return LILY_ERROR_UNAVAILABLE;
  cudaDeviceProp properties;
  if (const lily_status status = report(cudaGetDeviceProperties(&properties, id), "reading the device properties")) {
    return status;
  }
  *info = {};
  snprintf(info->name, sizeof info->name, "%.127s", properties.name);
  snprintf(info->detail, sizeof info->detail, "%d.%d", properties.major, properties.minor);
  snprintf(info->without, sizeof info->without, "%s", has_left_wgmma(id) ? "wgmma" : "");
  info->memory_bytes = properties.totalGlobalMem;
  info->cache_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  info->parallelism = properties.multiProcessorCount;
  return LILY_OK;
}

lily_status device_ready(int32_t id) {
  return on_device(id, [] { return LILY_OK; });
}

lily_status device_fall_back(int32_t id) {
  return on_device(id, [&](const Device &) {
    return leave_wgmma(id) ? LILY_OK : fail(LILY_ERROR_UNSUPPORTED, "the backend has no other code for cuda:%d", id);
  });
}

lily_status measure_roof(int32_t id, int32_t roof, size_t bytes, double *rate) {
  return on_device(id, [&](const Device &device) { return cuda::measure_roof(device, roof, bytes, rate); });
}

constexpr int kMostColumns = 1 << 30;

// What this backend requires of a problem beside what the binding has checked.
template <typename Work>
lily_status on_problem(const lily_problem &problem, Work work) {
  if (problem.d_in > kMostColumns || problem.d_out > kMostColumns)
    return fail(LILY_ERROR_UNSUPPORTED, "the CUDA backend supports d_in and d_out up to %d", kMostColumns);
  return on_device(problem.device, [&](const Device &device) {
    Device planned = device;
    const int64_t most = problem.multiprocessors;
    if (most > 0 && most < planned.multiprocessors) planned.multiprocessors = static_cast<int>(most);
    return work(planned);
  });
}

lily_status forward_workspace(const lily_problem *problem, size_t *bytes) {
  return on_problem(*problem, [&](const Device &device) {
    *bytes = cuda::forward_workspace(*problem, device);
    return LILY_OK;
  });
}

lily_status backward_workspace(const lily_problem *problem, size_t *bytes) {
  return on_problem(*problem, [&](const Device &device) {
    *bytes = cuda::backward_workspace(*problem, device);
    return LILY_OK;
  });
}

lily_status forward(const lily_forward *call) {
  return on_problem(call->problem, [&](const Device &device) { return enqueue(*call, device, cuda::forward); });
}

lily_status backward(const lily_backward *call) {
  return on_problem(call->problem, [&](const Device &device) { return enqueue(*call, device, cuda::backward); });
}

// ---- Calls over disjoint rows ----

// What they have in common, for on_problem: a list may have no call. Only the self-test limits multiprocessors, of
// calls on their own.
template <typename List>
lily_problem problem_of(const List &list) {
  lily_problem problem = {};
  problem.d_in = list.d_in;
  problem.d_out = list.d_out;
  problem.device = list.device;
  return problem;
}

lily_status forward_rows_workspace(const lily_forward_rows *list, size_t *bytes) {
  return on_problem(problem_of(*list), [&](const Device &device) {
    *bytes = cuda::forward_rows_workspace(*list, device);
    return LILY_OK;
  });
}

lily_status backward_rows_workspace(const lily_backward_rows *list, size_t *bytes) {
  return on_problem(problem_of(*list), [&](const Device &device) {
    *bytes = cuda::backward_rows_workspace(*list, device);
    return LILY_OK;
  });
}

lily_status forward_rows(const lily_forward_rows *list) {
  return on_problem(problem_of(*list),
                    [&](const Device &device) { return enqueue(*list, device, cuda::forward_rows); });
}

lily_status backward_rows(const lily_backward_rows *list) {
  return on_problem(problem_of(*list),
                    [&](const Device &device) { return enqueue(*list, device, cuda::backward_rows); });
}

lily_status fold(const lily_fold *call) {
  return on_device(call->device, [&](const Device &device) { return enqueue(*call, device, cuda::fold); });
}

lily_status draw(const lily_draw *call) {
  return on_device(call->device, [&](const Device &device) { return enqueue(*call, device, cuda::draw); });
}

// The same for a linear layer.
template <typename Work>
lily_status on_linear_problem(const lily_linear_problem &problem, Work work) {
  if (problem.d_in > kMostColumns || problem.d_out > kMostColumns)
    return fail(LILY_ERROR_UNSUPPORTED, "the CUDA backend supports d_in and d_out up to %d", kMostColumns);
  return on_device(problem.device, work);
}

lily_status linear_workspace(const lily_linear_problem *problem, size_t *bytes) {
  *bytes = 0;
  return on_linear_problem(*problem, [&](const Device &device) {
    *bytes = cuda::linear_workspace(*problem, device);
    return LILY_OK;
  });
}

lily_status linear(const lily_linear *call) {
  return on_linear_problem(call->problem, [&](const Device &device) { return enqueue(*call, device, cuda::linear); });
}

// The weight is read as it is.
lily_status linear_packed_bytes(const lily_linear_problem *problem, size_t *bytes) {
  *bytes = 0;
  return on_linear_problem(*problem, [] { return LILY_OK; });
}
lily_status linear_pack(const lily_linear *call, void *) {
  return on_linear_problem(call->problem, [] { return LILY_OK; });
}

lily_status adamw(const lily_adamw *call) {
  return on_device(call->device, [&](const Device &device) { return enqueue(*call, device, cuda::adamw); });
}

lily_status allocate(int32_t id, size_t bytes, void **memory) {
  return on_device(id, [&] {
    const cudaError_t error = cudaMalloc(memory, bytes);
    if (error != cudaErrorMemoryAllocation) return report(error, "allocating device memory");
    cudaGetLastError();
    return fail(LILY_ERROR_OUT_OF_MEMORY, "CUDA device %d cannot allocate %zu bytes (cudaErrorMemoryAllocation)", id,
                bytes);
  });
}

// Freeing and destroying also need the device's context: without it CUDA creates one on the thread's current device.
lily_status release(int32_t id, void *memory) {
  return on_device_if_kept(id, [&] { return report(cudaFree(memory), "freeing device memory"); });
}

lily_status allocate_pinned(int32_t id, size_t bytes, void **memory) {
  return on_device(
      id, [&] { return report(cudaHostAlloc(memory, bytes, cudaHostAllocPortable), "allocating pinned host memory"); });
}

lily_status release_pinned(int32_t id, void *memory) {
  return on_device_if_kept(id, [&] { return report(cudaFreeHost(memory), "freeing pinned host memory"); });
}

lily_status pointer_info(int32_t id, const void *pointer, lily_pointer_info *info) {
  *info = {};
  cudaPointerAttributes attributes;
  if (const lily_status status = on_device(id, [&] {
        return report(cudaPointerGetAttributes(&attributes, pointer), "reading the attributes of a pointer");
      })) {
    return status;
  }
  switch (attributes.type) {
    case cudaMemoryTypeDevice: info->kind = LILY_MEMORY_DEVICE; break;
    case cudaMemoryTypeManaged: info->kind = LILY_MEMORY_MANAGED; break;
    case cudaMemoryTypeHost: info->kind = LILY_MEMORY_PINNED; break;
    default: info->kind = LILY_MEMORY_HOST; break;
  }
  info->device = attributes.device;
  return LILY_OK;
}

lily_status copy(int32_t id, void *destination, const void *source, size_t bytes, lily_stream stream) {
  return on_stream(id, stream, [&](lily_stream resolved) {
    return report(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, cuda_stream(resolved)),
                  "enqueuing a copy");
  });
}

lily_status fill(int32_t id, void *destination, uint8_t value, size_t bytes, lily_stream stream) {
  return on_stream(id, stream, [&](lily_stream resolved) {
    return report(cudaMemsetAsync(destination, value, bytes, cuda_stream(resolved)), "enqueuing a fill");
  });
}

lily_status stream_default(int32_t id, lily_stream *stream) {
  *stream = 0;
  return on_device(id, [&] { return resolve(id, stream); });
}

lily_status stream_create(int32_t id, lily_stream *stream) {
  return on_device(id, [&] {
    cudaStream_t created = nullptr;
    const lily_status status = create_stream(&created);
    *stream = reinterpret_cast<lily_stream>(created);
    return status;
  });
}

lily_status stream_destroy(int32_t id, lily_stream stream) {
  return on_device_if_kept(id, [&] { return report(cudaStreamDestroy(cuda_stream(stream)), "destroying a stream"); });
}

lily_status stream_wait_event(int32_t id, lily_stream stream, lily_event event) {
  return on_stream(id, stream, [&](lily_stream resolved) {
    return report(cudaStreamWaitEvent(cuda_stream(resolved), cuda_event(event), 0),
                  "making a stream wait for an event");
  });
}

lily_status event_create(int32_t id, int32_t timing, lily_event *event) {
  return on_device(id, [&] {
    cudaEvent_t created = nullptr;
    // A waiting thread sleeps instead of spinning: the CPU stays free for the event loop.
    const unsigned flags = cudaEventBlockingSync | (timing != 0 ? 0u : unsigned{cudaEventDisableTiming});
    const lily_status status = report(cudaEventCreateWithFlags(&created, flags), "creating an event");
    *event = reinterpret_cast<lily_event>(created);
    return status;
  });
}

lily_status event_destroy(int32_t id, lily_event event) {
  return on_device_if_kept(id, [&] { return report(cudaEventDestroy(cuda_event(event)), "destroying an event"); });
}

lily_status event_record(int32_t id, lily_event event, lily_stream stream) {
  return on_stream(id, stream, [&](lily_stream resolved) {
    return report(cudaEventRecord(cuda_event(event), cuda_stream(resolved)), "recording an event");
  });
}

lily_status event_query(int32_t id, lily_event event, int32_t *ready) {
  return on_device(id, [&] {
    const cudaError_t error = cudaEventQuery(cuda_event(event));
    *ready = error == cudaSuccess ? 1 : 0;
    if (error != cudaErrorNotReady) return report(error, "querying an event");
    cudaGetLastError();
    return LILY_OK;
  });
}

lily_status event_synchronize(int32_t id, lily_event event) {
  return on_device(id, [&] { return report(cudaEventSynchronize(cuda_event(event)), "waiting for the device"); });
}

lily_status event_elapsed(int32_t id, lily_event start, lily_event end, float *milliseconds) {
  return on_device(id, [&] {
    return report(cudaEventElapsedTime(milliseconds, cuda_event(start), cuda_event(end)),
                  "measuring the time between events");
  });
}

// For each stream that captures, whether the device had wgmma when the capture began.
std::mutex captures_mutex;
std::unordered_map<lily_stream, bool> captures;

// Relaxed mode: the capture does not record, and does not forbid, this thread's calls on other streams and its
// allocations.
lily_status capture_begin(int32_t id, lily_stream stream) {
  return on_device(id, [&](const Device &device) {
    if (const lily_status status = load_kernels(device)) return status;
    {
      const std::lock_guard<std::mutex> lock(captures_mutex);
      captures[stream] = !has_left_wgmma(id);
    }
    return report(cudaStreamBeginCapture(cuda_stream(stream), cudaStreamCaptureModeRelaxed),
                  "beginning a stream capture");
  });
}

// What lily_graph points to.
struct Graph {
  cudaGraphExec_t executable;
  bool is_before_fall_back;  // it may have kernels that the self-test has found wrong since
};

Graph *graph_of(lily_graph graph) { return reinterpret_cast<Graph *>(graph); }

lily_status capture_end(int32_t id, lily_stream stream, lily_graph *graph) {
  *graph = 0;
  return on_device(id, [&] {
    cudaGraph_t recorded = nullptr;
    if (const lily_status status =
            report(cudaStreamEndCapture(cuda_stream(stream), &recorded), "ending a stream capture")) {
      return status;
    }
    cudaGraphExec_t executable = nullptr;
    const lily_status made = report(cudaGraphInstantiate(&executable, recorded, 0), "instantiating a graph");
    // The executable graph does not depend on the captured one.
    const lily_status destroyed = report(cudaGraphDestroy(recorded), "destroying a captured graph");
    if (made != LILY_OK) return made;
    const std::lock_guard<std::mutex> lock(captures_mutex);
    *graph = reinterpret_cast<lily_graph>(new Graph{executable, captures[stream]});
    captures.erase(stream);
    return destroyed;
  });
}

lily_status graph_launch(int32_t id, lily_graph graph, lily_stream stream) {
  return on_stream(id, stream, [&](lily_stream resolved) {
    if (graph_of(graph)->is_before_fall_back && has_left_wgmma(id)) {
      return fail(
          LILY_ERROR_DEVICE,
          "the graph was captured before the self-test found wrong results of wgmma on cuda:%d, which it may use; "
          "capture it again",
          id);
    }
    return report(cudaGraphLaunch(graph_of(graph)->executable, cuda_stream(resolved)), "launching a graph");
  });
}

lily_status graph_destroy(int32_t id, lily_graph graph) {
  const std::unique_ptr<Graph> destroyed(graph_of(graph));
  return on_device_if_kept(id,
                           [&] { return report(cudaGraphExecDestroy(destroyed->executable), "destroying a graph"); });
}

lily_status close() {
  const std::lock_guard<std::mutex> lock(own_streams_mutex);
  lily_status first = LILY_OK;
  for (int32_t id = 0; id < LILY_MAX_DEVICES; ++id) {
    if (own_streams[id] == nullptr) continue;
    const lily_status closed = on_device_if_kept(id, [&] {
      const lily_status waited = report(cudaStreamSynchronize(own_streams[id]), "waiting for the device");
      const lily_status destroyed = report(cudaStreamDestroy(own_streams[id]), "destroying a stream");
      return waited != LILY_OK ? waited : destroyed;
    });
    own_streams[id] = nullptr;
    if (first == LILY_OK) first = closed;
  }
  for (int32_t id = 0; id < LILY_MAX_DEVICES; ++id) {
    if (!has_cublaslt_handle(id)) continue;
    const lily_status closed = on_device_if_kept(id, [&] {
      close_cublaslt_handle(id, true);
      return LILY_OK;
    });
    close_cublaslt_handle(id, false);
    if (first == LILY_OK) first = closed;
  }
  forget_contexts();
  return first;
}

constexpr lily_backend kBackend = {
    .abi_version = LILY_ABI_VERSION,
    .name = "cuda",
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
    .draw = draw,
    .linear_workspace = linear_workspace,
    .linear = linear,
    .linear_packed_bytes = linear_packed_bytes,
    .linear_pack = linear_pack,
    .adamw_workspace = adamw_workspace,
    .adamw = adamw,
    .allocate = allocate,
    .release = release,
    .allocate_pinned = allocate_pinned,
    .release_pinned = release_pinned,
    .pointer_info = pointer_info,
    .copy = copy,
    .fill = fill,
    .stream_default = stream_default,
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
}  // namespace lily::cuda

extern "C" __attribute__((visibility("default"))) const lily_backend *lily_backend_get(uint32_t abi_version) {
  return abi_version == LILY_ABI_VERSION ? &lily::cuda::kBackend : nullptr;
}
