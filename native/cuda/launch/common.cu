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
      cudaGetLastError();  // the launch fails, too, and reports it
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

lily_status launch_cast(const Launch &planned, const Cast &call, Launcher &launcher) {
  return launcher.launch(cast<void>, "launching the cast kernel", planned, call);
}

lily_status launch_backward_hidden(const Launch &planned, const BackwardHidden &call, Launcher &launcher) {
  return launcher.launch(backward_hidden<void>, "launching the backward_hidden kernel", planned, call);
}

lily_status launch_route(const Launch &planned, const ForwardRoute &call, Launcher &launcher) {
  return launcher.launch(forward_route<void>, "launching the forward_route kernel", planned, call);
}

lily_status launch_form_u(const Launch &planned, const FormU &call, Launcher &launcher) {
  return launcher.launch(form_u<void>, "launching the form_u kernel", planned, call);
}

lily_status launch_pool(const Launch &planned, const Pool &call, Launcher &launcher) {
  return launcher.launch(pool<void>, "launching the pool kernel", planned, call);
}

lily_status launch_reduce(const Launch &planned, const Reduce &call, Launcher &launcher) {
  return launcher.launch(reduce<void>, "launching the reduce kernel", planned, call);
}

lily_status launch_fold(const Fold &call, Launcher &launcher) {
  return launcher.launch(fold<void>, "launching the fold kernel",
                         dim3(reduce_blocks(call.experts * call.rank, call.columns)), 0, call);
}

lily_status launch_ascend(const Ascend &call, Launcher &launcher) {
  return launcher.launch(ascend<void>, "launching the ascend kernel", dim3(1), 0, call);
}

void load_common(KernelLoader &load) {
  load(cast<void>);
  load(forward_route<void>);
  load(pool<void>);
  load(reduce<void>);
  load(backward_hidden<void>);
  load(form_u<void>);
  load(fold<void>);
  load(ascend<void>);
}

}  // namespace lily::cuda
