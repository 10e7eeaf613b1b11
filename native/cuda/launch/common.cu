// Launches of the kernels that all engines share.
#include "cuda/launch/launch.h"

namespace lily::cuda {

lily_status launch_route(const Launch &planned, const ForwardRoute &call, cudaStream_t stream) {
  return launch(forward_route<void>, "launching the forward_route kernel", planned, stream, call);
}

lily_status launch_pool(const Launch &planned, const Pool &call, cudaStream_t stream) {
  return launch(pool<void>, "launching the pool kernel", planned, stream, call);
}

lily_status launch_reduce(const Launch &planned, const Reduce &call, cudaStream_t stream) {
  return launch(reduce<void>, "launching the reduce kernel", planned, stream, call);
}

lily_status launch_write_weights(const Launch &planned, const ConstantWeights &call, cudaStream_t stream) {
  return launch(write_weights<void>, "launching the write_weights kernel", planned, stream, call);
}

lily_status launch_fold(const Fold &call, cudaStream_t stream) {
  return launch(fold<void>, "launching the fold kernel", dim3(reduce_blocks(call.experts * call.rank, call.columns)), 0,
                stream, call);
}

}  // namespace lily::cuda
