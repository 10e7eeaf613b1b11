// The launch of a product of large ranks, or of a frozen linear layer.
#pragma once

#include "cuda/kernels/large_product.cuh"
#include "cuda/launch/launch.h"

namespace lily::cuda {

template <typename Engine>
lily_status launch_product(const Launch &launch, const ProductPlan &plan, bool transposed, LargeProduct call,
                           Launcher &launcher) {
  call.tile_columns = plan.tile_columns;
  call.tiles_each = plan.tiles_each;
  return with_tile<typename Tiles<Engine>::Large>(launch.tile, [&](auto row) {
    const auto kernel = transposed ? large_product<decltype(row), true> : large_product<decltype(row), false>;
    return launcher.launch(kernel, "launching the large_product kernel", launch, call);
  });
}

}  // namespace lily::cuda
