// Launches of the kernels that all engines share.
#include "cuda/launch.h"

namespace lily::cuda {

lily_status launch_route(const ForwardRoute &call, int tiles, cudaStream_t stream) {
  return launch(forward_route<void>, "launching the forward_route kernel", dim3(tiles),
                call.tile_tokens * (call.route.experts | 1) * static_cast<int>(sizeof(float)), stream, call);
}

lily_status launch_pool(const Pool &call, cudaStream_t stream) {
  if (call.groups.groups == 0) return LILY_OK;
  return launch(pool<void>, "launching the pool kernel", dim3(call.groups.groups), 0, stream, call);
}

lily_status launch_reduce(const Reduce &call, cudaStream_t stream) {
  if (call.blocks == 0) return LILY_OK;
  return launch(reduce<void>, "launching the reduce kernel", dim3(call.blocks), 0, stream, call);
}

lily_status launch_fold(const Fold &call, cudaStream_t stream) {
  return launch(fold<void>, "launching the fold kernel", dim3(reduce_blocks(call.experts * call.rank, call.columns)), 0,
                stream, call);
}

lily_status launch_write_weights(float *weights, int64_t count, float value, cudaStream_t stream) {
  if (count == 0) return LILY_OK;
  return launch(write_weights<void>, "launching the write_weights kernel", dim3(ceil_divide(count, kThreads)), 0,
                stream, ConstantWeights{weights, count, value});
}

}  // namespace lily::cuda
