// Products by wgmma, the matrix instruction of Hopper: a warpgroup (four warps) multiplies 64 rows by up to 256
// columns, reads both operands from shared memory, and goes on while the matrix units work. Compiled for compute_90a
// only. See the PTX ISA, "Asynchronous warpgroup level matrix instructions".
//
// A warp has 16 of the 64 rows. Its sums have the layout of mma.m16n8, for each 8 columns one after the other.
#pragma once

#include "cuda/tiles/matrix.cuh"

namespace lily::cuda {

// ---- Descriptors ----

// An operand of 16-bit elements in shared memory, without its address: rows of 128 or 64 bytes, whose 16-byte vectors
// are permuted as by `place`, which is the 128- and the 64-byte swizzle. The permutation follows from the address, so
// that tiles begin at multiples of 8 rows of 128 bytes.
//   Along::kDepth  a row has kBlockK steps along the sum; 8 rows follow each other at `stride`
//   Along::kOuter  a panel has a row for each step along the sum; 8 steps follow each other at `stride`, and panels at
//                  `leading`
template <Along kAlong_, int kBlockK, int kPanel>
struct GroupOperand {
  static constexpr Along kAlong = kAlong_;
  static constexpr int kRowBytes = 2 * (kAlong == Along::kDepth ? kBlockK : kPanel);
  static_assert(kRowBytes == 128 || kRowBytes == 64);
  static constexpr uint64_t kSwizzle = kRowBytes == 128 ? 1 : 2;
  static constexpr uint64_t kStride = 8 * kRowBytes, kLeading = kAlong == Along::kDepth ? 16 : kBlockK * kRowBytes;
  static constexpr uint64_t kLayout = kSwizzle << 62 | kStride / 16 << 32 | kLeading / 16 << 16;
  // Between the operands of two instructions, which have 16 steps of the sum each, in units of 16 bytes.
  static constexpr int kStep = kAlong == Along::kDepth ? 2 : kRowBytes;

  // The operand that begins at row `first` of the outer dimension, a multiple of 64.
  __device__ static uint64_t descriptor(const void *tile, int first) {
    const uint32_t offset = first * 2 * kBlockK;  // of a row, or of a panel
    return kLayout | (shared_address(tile) + offset) >> 4;
  }
};

// ---- Instructions ----

// Makes writes of this thread to shared memory visible to wgmma, which reads it by the asynchronous proxy.
__device__ inline void show_to_wgmma() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product that uses registers which other instructions have written.
__device__ inline void wgmma_fence() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void wgmma_commit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most kPending groups of products are pending. The registers of the others can be read then, and the
// shared memory of their operands written.
template <int kPending>
__device__ inline void wgmma_wait() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Keeps other uses of the sums on their side of this point: before the first product, and after the wait for the last
// one, whose instructions say nothing about registers to the compiler.
template <int kFragments>
__device__ inline void pin(float (&sum)[kFragments][4]) {
#pragma unroll
  for (auto &fragment : sum)
#pragma unroll
    for (float &value : fragment) asm volatile("" : "+f"(value)::"memory");
}

// The sums of 32 columns are 16 registers.
#define LILY_REGISTERS_1 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define LILY_REGISTERS_2 \
  LILY_REGISTERS_1 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LILY_REGISTERS_3 \
  LILY_REGISTERS_2 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LILY_REGISTERS_4 \
  LILY_REGISTERS_3 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LILY_REGISTERS_5 \
  LILY_REGISTERS_4 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define LILY_REGISTERS_6 \
  LILY_REGISTERS_5 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LILY_REGISTERS_7 \
  LILY_REGISTERS_6 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define LILY_REGISTERS_8 \
  LILY_REGISTERS_7 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LILY_SUMS_OF_8(j) "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])
#define LILY_SUMS_OF_32(q) \
  LILY_SUMS_OF_8(4 * q), LILY_SUMS_OF_8(4 * q + 1), LILY_SUMS_OF_8(4 * q + 2), LILY_SUMS_OF_8(4 * q + 3)
#define LILY_SUMS_1 LILY_SUMS_OF_32(0)
#define LILY_SUMS_2 LILY_SUMS_1, LILY_SUMS_OF_32(1)
#define LILY_SUMS_3 LILY_SUMS_2, LILY_SUMS_OF_32(2)
#define LILY_SUMS_4 LILY_SUMS_3, LILY_SUMS_OF_32(3)
#define LILY_SUMS_5 LILY_SUMS_4, LILY_SUMS_OF_32(4)
#define LILY_SUMS_6 LILY_SUMS_5, LILY_SUMS_OF_32(5)
#define LILY_SUMS_7 LILY_SUMS_6, LILY_SUMS_OF_32(6)
#define LILY_SUMS_8 LILY_SUMS_7, LILY_SUMS_OF_32(7)
// The operands after the sums: the descriptors, and whether the outer dimension is contiguous.
#define LILY_WGMMA(kColumns, kType, kUnits, kA, kB, kAdds, kOuterA, kOuterB)                                        \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" kAdds                                                     \
               ", 0;\n"                                                                                             \
               "wgmma.mma_async.sync.aligned.m64n" kColumns "k16.f32." kType "." kType " {" LILY_REGISTERS_##kUnits \
               "}, %" kA ", %" kB ", adds, 1, 1, %" kOuterA ", %" kOuterB ";\n}"                                    \
               : LILY_SUMS_##kUnits                                                                                 \
               : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(A::kAlong == Along::kOuter),                      \
                 "n"(B::kAlong == Along::kOuter)                                                                    \
               : "memory")
#define LILY_WGMMA_OF(kType)                                                                     \
  if constexpr (kColumns == 32) LILY_WGMMA("32", kType, 1, "16", "17", "18", "19", "20");        \
  if constexpr (kColumns == 64) LILY_WGMMA("64", kType, 2, "32", "33", "34", "35", "36");        \
  if constexpr (kColumns == 96) LILY_WGMMA("96", kType, 3, "48", "49", "50", "51", "52");        \
  if constexpr (kColumns == 128) LILY_WGMMA("128", kType, 4, "64", "65", "66", "67", "68");      \
  if constexpr (kColumns == 160) LILY_WGMMA("160", kType, 5, "80", "81", "82", "83", "84");      \
  if constexpr (kColumns == 192) LILY_WGMMA("192", kType, 6, "96", "97", "98", "99", "100");     \
  if constexpr (kColumns == 224) LILY_WGMMA("224", kType, 7, "112", "113", "114", "115", "116"); \
  if constexpr (kColumns == 256) LILY_WGMMA("256", kType, 8, "128", "129", "130", "131", "132")

// sum += a b for 16 steps along the sum, of the 64 x kColumns elements of a warpgroup. The sums are valid after a wait.
template <typename T, typename A, typename B, int kColumns, int kFragments>
__device__ inline void wgmma(float (&sum)[kFragments][4], uint64_t a, uint64_t b, bool adds) {
  static_assert(kColumns <= 8 * kFragments && kColumns % kGroupColumns == 0);
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    LILY_WGMMA_OF("bf16");
  } else {
    LILY_WGMMA_OF("f16");
  }
#endif
}

#undef LILY_WGMMA_OF
#undef LILY_WGMMA

// sum += a b for `columns` of at most kColumns columns, in whole instructions of 32, over all kSteps steps of 16.
// Commits them as a group.
template <typename T, typename A, typename B, int kSteps, int kColumns, int kFragments>
__device__ inline void multiply_group(float (&sum)[kFragments][4], uint64_t a, uint64_t b, int columns, bool adds) {
  if constexpr (kColumns > kGroupColumns) {
    if (columns <= kColumns - kGroupColumns) {
      multiply_group<T, A, B, kSteps, kColumns - kGroupColumns>(sum, a, b, columns, adds);
      return;
    }
  }
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    wgmma<T, A, B, kColumns>(sum, a + step * A::kStep, b + step * B::kStep, adds || step > 0);
  wgmma_commit();
}

}  // namespace lily::cuda
