// All launches of one engine: each translation unit that includes this file instantiates one engine.
#pragma once

#include "cuda/launch_backward.cuh"
#include "cuda/launch_forward.cuh"

namespace lily::cuda {

template <typename Engine>
lily_status run_forward(const lily_forward &call, const Device &device, size_t *workspace_bytes) {
  const Forward<Engine> forward(call, device);
  if (workspace_bytes == nullptr) return forward.run();
  *workspace_bytes = forward.workspace_bytes();
  return LILY_OK;
}

template <typename Engine>
lily_status run_backward(const lily_backward &call, const Device &device, size_t *workspace_bytes) {
  const Backward<Engine> backward(call, device);
  if (workspace_bytes == nullptr) return backward.run();
  *workspace_bytes = backward.workspace_bytes();
  return LILY_OK;
}

// Allows every kernel as much dynamic shared memory as the device supports per block.
template <typename Engine>
lily_status prepare_engine(const Device &device) {
  using Table = Rows<Engine>;
  lily_status status = LILY_OK;
  const auto allow = [&](auto kernel) {
    if (status != LILY_OK) return;
    status =
        report(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    device.shared_bytes_per_block - kStaticBytes),
               "setting the maximum shared memory of a kernel");
  };
  for_each_row(typename Table::Shrink{}, [&](auto row) { allow(forward_shrink<decltype(row)>); });
  for_each_row(typename Table::Token{}, [&](auto row) { allow(forward_token<decltype(row)>); });
  for_each_row(typename Table::Decode{}, [&](auto row) { allow(forward_decode<decltype(row)>); });
  for_each_row(typename Table::Large{}, [&](auto row) {
    allow(large_shrink<decltype(row)>);
    allow(large_strip<decltype(row)>);
  });
  for_each_row(typename Table::Once{}, [&](auto row) { allow(backward_dy_once<decltype(row)>); });
  for_each_row(typename Table::Strip{}, [&](auto strip) {
    using Strip = decltype(strip);
    allow(forward_expand<Strip>);
    allow(backward_x<Strip>);
    for_each_row(typename Table::Shrink{}, [&](auto row) {
      if constexpr (decltype(row)::kBlockN == Strip::kBlockK) allow(backward_dy<decltype(row), Strip>);
    });
  });
  return status;
}

template <typename Engine>
constexpr EngineFunctions kFunctionsOf = {run_forward<Engine>, run_backward<Engine>, prepare_engine<Engine>};

}  // namespace lily::cuda
