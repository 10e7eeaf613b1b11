// A draw of dropout: the numbers of a call, and the state of the next one. Symbols as in docs/math.md.
#pragma once

#include "cuda/tiles/stage.cuh"

namespace lily::cuda {

// Four words each: the seed and the position, the low word of either first.
struct Draw {
  uint32_t *state;  // in and out: the position is one more after each call
  uint32_t *draw;   // out: what the state was
};

template <typename Unused>
__global__ __launch_bounds__(kThreads) void draw(const __grid_constant__ Draw call) {
  wait_for_previous_launch();
  if (threadIdx.x != 0) return;
  for (int word = 0; word < 4; ++word) call.draw[word] = call.state[word];
  if (++call.state[2] == 0) ++call.state[3];
}

}  // namespace lily::cuda
