// Launches of the kernels that all engines share.
#include <atomic>

#include "cuda/launch/launch.h"
#include "cuda/operations.h"

namespace lily::cuda {

namespace {

std::atomic<int> known_architectures[LILY_MAX_DEVICES];

// Never launched: its static shared memory has as many bytes as its virtual architecture has as a number. CUDA reports
// it for the code that a device executes, and calls compute_90 and compute_90a the same.
__global__ void architecture() {
  __shared__ volatile char bytes[kArchitecture];
  bytes[threadIdx.x] = 0;
}

}  // namespace

int executed_architecture(int32_t device) {
  int architecture = known_architectures[device].load(std::memory_order_relaxed);
  if (architecture == 0) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, cuda::architecture) != cudaSuccess) {
      cudaGetLastError();  // the launch also fails, and reports it
      return 0;
    }
    // From 9.0 on CUDA keeps 1024 bytes more per block, which the attribute may contain.
    architecture = static_cast<int>(attributes.sharedSizeBytes % 1024);
    // Another thread may have found it, and left wgmma, in the meantime.
    int known = 0;
    if (!known_architectures[device].compare_exchange_strong(known, architecture)) return known;
  }
  return architecture;
}

bool leave_wgmma(int32_t device) {
  int expected = kHopperArchitecture;
  return known_architectures[device].compare_exchange_strong(expected, kHopperWithoutWgmma);
}

bool has_left_wgmma(int32_t device) { return known_architectures[device].load() == kHopperWithoutWgmma; }

const ListKernel<Cast> kCastKernel = {cast<void>, cast_list<void>, "launching the cast kernel"};
const ListKernel<ForwardRoute> kRouteKernel = {forward_route<void>, forward_route_list<void>,
                                               "launching the forward_route kernel"};
const ListKernel<FormU> kFormUKernel = {form_u<void>, form_u_list<void>, "launching the form_u kernel"};
const ListKernel<BackwardHidden> kHiddenKernel = {backward_hidden<void>, backward_hidden_list<void>,
                                                  "launching the backward_hidden kernel"};
const ListKernel<Reduce> kReduceKernel = {reduce<void>, reduce_list<void>, "launching the reduce kernel"};
const ListKernel<Pool> kPoolKernel = {pool<void>, pool_list<void>, "launching the pool kernel"};

lily_status launch_cast(const Launch &planned, const Cast &call, Launcher &launcher) {
  return launcher.launch(kCastKernel.one, kCastKernel.name, planned, call);
}

lily_status launch_clear(const lily_matrix &matrix, int columns, const ListedRows &rows, int count,
                         Launcher &launcher) {
  Cast call = {};
  Output to = output(matrix);
  to.rows = rows;
  add_job(call, {{}, to, count, columns, columns, {}, nullptr, 0});
  return launcher.launch(kCastKernel.one, kCastKernel.name, dim3(cast_blocks(count, columns)), 0, call);
}

lily_status launch_fold(const Fold &call, Launcher &launcher) {
  return launcher.launch(fold<void>, "launching the fold kernel",
                         dim3(reduce_blocks(call.experts * call.rank, call.columns)), 0, call);
}

lily_status launch_ascend(const Ascend &call, Launcher &launcher) {
  return launcher.launch(ascend<void>, "launching the ascend kernel", dim3(1), 0, call);
}

lily_status launch_draw(const Draw &call, Launcher &launcher) {
  return launcher.launch(draw<void>, "launching the draw kernel", dim3(1), 0, call, kWarp);
}

void load_common(KernelLoader &load) {
  const auto load_both = [&](const auto &kernel) {
    load(kernel.one);
    load(kernel.list);
  };
  load_both(kCastKernel);
  load_both(kRouteKernel);
  load_both(kFormUKernel);
  load_both(kPoolKernel);
  load_both(kReduceKernel);
  load_both(kHiddenKernel);
  load(fold<void>);
  load(ascend<void>);
  load(draw<void>);
}

}  // namespace lily::cuda
