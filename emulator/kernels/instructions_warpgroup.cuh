// Matrix products of warpgroups, with every form of the descriptors.
#pragma once

#include "instructions_memory.cuh"
#include "warpgroup.cuh"

constexpr int kImagePieces = 2048;  // of 16 bytes

// Both matrices are where their descriptors say in `image`; the descriptors count from its start.
template <class T, int kColumns, bool kMnMajor>
__global__ void multiply_tiles(const uint4 *image, uint64_t a, uint64_t b, float *out) {
  extern __shared__ __align__(1024) uint4 tiles[];
  for (int i = threadIdx.x; i < kImagePieces; i += blockDim.x) tiles[i] = image[i];
  fence_proxy();
  __syncthreads();
  constexpr int kResults = kColumns / 2;
  float d[kResults];
  for (int i = 0; i < kResults; ++i) d[i] = static_cast<float>((threadIdx.x * 5 + i) % 7) - 3;
  for (int i = 0; i < kResults; ++i) asm volatile("" : "+f"(d[i]));
  const uint64_t start = shared_address(tiles) / 16;
  fence_warpgroup();
  multiply_warpgroup<T, kMnMajor, kMnMajor>(d, a + start, b + start);
  commit_products();
  wait_products<0>();
  for (int i = 0; i < kResults; ++i) out[threadIdx.x * kResults + i] = d[i];
}

// Numbers whose sums are exact, or fractions with full mantissas.
template <class T>
std::vector<uint4> random_image(bool exact) {
  std::vector<uint4> image(kImagePieces);
  std::vector<T> elements(kImagePieces * 8);
  uint32_t state = 12;
  for (T &element : elements) {
    state = state * 1664525u + 1013904223u;
    const int number = static_cast<int>(state >> 16);
    element = T(exact ? static_cast<float>(number % 9 - 4) : static_cast<float>(number - 32768) / 32768);
  }
  std::memcpy(image.data(), elements.data(), elements.size() * sizeof(T));
  return image;
}

struct TileLayout {
  const char *name;
  bool mn_major;
  // As in a descriptor: the number of the swizzle mode, and the others in pieces.
  uint64_t swizzle, start, leading, stride, base_offset;

  uint64_t descriptor(uint64_t from) const {
    return swizzle << 62 | base_offset << 49 | stride << 32 | leading << 16 | (start + from);
  }
};

constexpr TileLayout kTileLayouts[] = {
    {"K-major", false, 0, 3, 200, 13, 0},
    {"K-major, 32 bytes", false, 3, 16, 1, 32, 0},
    {"K-major, 64 bytes", false, 2, 2, 1, 64, 0},
    {"K-major, 128 bytes", false, 1, 4, 1, 64, 0},
    {"K-major, 128 bytes from 384", false, 1, 24 + 2, 1, 64, 3},
    {"MN-major", true, 0, 5, 19, 43, 0},
    {"MN-major, 32 bytes", true, 3, 0, 48, 16, 0},
    {"MN-major, 64 bytes", true, 2, 32, 64, 96, 0},
    {"MN-major, 128 bytes", true, 1, 64, 128, 64, 0},
    {"MN-major, 128 bytes from 640", true, 1, 40, 128, 64, 5},
};

template <class T, int kColumns>
bool run_tiles(const std::string &name, bool exact) {
  constexpr uint64_t kPiecesOfA = 768;
  DeviceArray<uint4> image(random_image<T>(exact));
  DeviceArray<float> out(64 * kColumns);
  for (const TileLayout &layout : kTileLayouts) {
    const auto kernel = layout.mn_major ? multiply_tiles<T, kColumns, true> : multiply_tiles<T, kColumns, false>;
    kernel<<<1, 128, kImagePieces * 16>>>(image.get(), layout.descriptor(0), layout.descriptor(kPiecesOfA), out.get());
    finish();
    const std::string what = name + ", " + layout.name;
    if (exact)
      print_exact(what.c_str(), out.host());
    else
      print_near(what.c_str(), out.host(), 0, 17 * 4 * 0x1p-22);
  }
  return true;
}

// Prints nothing on other devices.
inline bool test_warpgroups() {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  if (properties.major != 9) return true;
  run_tiles<__nv_bfloat16, 8>("wgmma n8 bf16", true);
  run_tiles<__nv_bfloat16, 8>("wgmma n8 bf16, fractions", false);
  run_tiles<__half, 8>("wgmma n8 f16", true);
  run_tiles<__nv_bfloat16, 128>("wgmma n128 bf16", true);
  return true;
}
