// One launch for the calls of a list (lily_forward_rows): its grid has the blocks of the first call, then of the
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

// Bytes of all parameters of a kernel, from CUDA 12.1 and compute capability 7.0 on.
constexpr int kMostParameterBytes = 32764;

// Calls of one launch. Longer lists have further launches.
template <typename Call>
constexpr int kMostParts = (kMostParameterBytes - 8) / static_cast<int>(sizeof(Call) + sizeof(int3) + 4) < 64
                               ? (kMostParameterBytes - 8) / static_cast<int>(sizeof(Call) + sizeof(int3) + 4)
                               : 64;

// The first blocks are side by side: a search among them reads few lines of the cache of constants.
template <typename Call>
struct List {
  Call calls[kMostParts<Call>];
  int3 grids[kMostParts<Call>];
  int first_blocks[kMostParts<Call>];
  int count;
};

// Calls body(call, block) with the call of this block.
template <typename Call, typename Body>
__device__ __forceinline__ void run_part(const List<Call> &list, const Body &body) {
  static_assert(sizeof(List<Call>) <= kMostParameterBytes);
  // Binary search for the last call whose first block is not after this one.
  int index = 0;
  for (int last = list.count - 1; index < last;) {
    const int middle = (index + last + 1) / 2;
    if (list.first_blocks[middle] <= static_cast<int>(blockIdx.x))
      index = middle;
    else
      last = middle - 1;
  }
  const int3 grid = list.grids[index];
  const int block = static_cast<int>(blockIdx.x) - list.first_blocks[index];
  body(list.calls[index], Block{block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y, grid.x, grid.z});
}

}  // namespace lily::cuda
