// One launch for the calls of a list (lily_forward_rows): its grid has the blocks of the first call, then those of the
// next one. Each kernel is a body, which gets its call and its place in the grid of that call, with two entries: one
// for a single call, and one for a list. The bodies are the same, and so are the bits.
#pragma once

namespace lily::cuda {

// A block of the grid of a call.
struct Block {
  int x, y, z;
  int grid_x, grid_z;  // blocks
};

__device__ inline Block block_of_grid() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z),
          static_cast<int>(gridDim.x), static_cast<int>(gridDim.z)};
}

template <typename Call>
struct Part {
  Call call;
  int first_block, grid_x, grid_y, grid_z;
};

// Bytes of all parameters of a kernel, from CUDA 12.1 and compute capability 7.0 on.
constexpr int kMostParameterBytes = 32764;

// Calls of one launch. Longer lists have further launches.
template <typename Call>
constexpr int kMostParts = (kMostParameterBytes - 8) / static_cast<int>(sizeof(Part<Call>)) < 64
                               ? (kMostParameterBytes - 8) / static_cast<int>(sizeof(Part<Call>))
                               : 64;

template <typename Call>
struct List {
  Part<Call> parts[kMostParts<Call>];
  int count;
};

// Calls body(call, block) with the call of this block.
template <typename Call, typename Body>
__device__ __forceinline__ void run_part(const List<Call> &list, const Body &body) {
  // Binary search for the last call whose first block is not after this one.
  int index = 0;
  for (int last = list.count - 1; index < last;) {
    const int middle = (index + last + 1) / 2;
    if (list.parts[middle].first_block <= static_cast<int>(blockIdx.x))
      index = middle;
    else
      last = middle - 1;
  }
  const Part<Call> &part = list.parts[index];
  const int block = static_cast<int>(blockIdx.x) - part.first_block;
  body(part.call, Block{block % part.grid_x, block / part.grid_x % part.grid_y, block / part.grid_x / part.grid_y,
                        part.grid_x, part.grid_z});
}

}  // namespace lily::cuda
