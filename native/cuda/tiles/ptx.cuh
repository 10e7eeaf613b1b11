// The only file with inline assembly: matrix units, fragment loads, asynchronous copies to shared memory, and the order
// of launches. See the PTX ISA, sections "Warp-level matrix instructions", "Data movement" and "griddepcontrol";
// its figures show the fragment layouts.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace lily::cuda {

__device__ inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- Order of launches ----

// Waits until the previous launch of the stream has ended and its writes are visible, if this launch may have started
// before (Launcher in launch.h). Every thread of every kernel calls it before it reads or writes memory that an earlier
// launch of the call uses. Earlier launches have then ended as well: the previous one waited for them.
__device__ inline void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Allows the next launch of the stream to start once every block has called this or ended. It affects the time only.
// Kernels call it when their main loop has ended: by then most blocks of the last wave have left their multiprocessors,
// on which the next launch spreads evenly. Earlier, its waiting blocks would crowd on those that are free first.
__device__ inline void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- Copies to shared memory ----

// Copies `bytes` (at most 16) bytes and fills the rest of 16 bytes with zeros. Turing does not support cp.async; no
// kernel calls this there.
__device__ inline void copy_async(void *shared, const void *global, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
#endif
}

// Copies 4 bytes, cached in L1.
__device__ inline void copy_async_4(void *shared, const void *global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#endif
}

// Commits this thread's copies issued so far as a group.
__device__ inline void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's groups are pending.
template <int kPending>
__device__ inline void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Stores 16 or 8 bytes with one instruction. The compiler would store elements that were loaded one by one with one
// instruction each.
__device__ inline void store_vector(void *shared, const uint4 &vector) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)), "r"(vector.x), "r"(vector.y),
               "r"(vector.z), "r"(vector.w)
               : "memory");
}

__device__ inline void store_vector(void *shared, const uint2 &vector) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared_address(shared)), "r"(vector.x), "r"(vector.y)
               : "memory");
}

// Likewise to global memory.
__device__ inline void store_global_vector(void *global, const uint4 &vector) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(vector.x),
               "r"(vector.y), "r"(vector.z), "r"(vector.w)
               : "memory");
}

__device__ inline void store_global_vector(void *global, const uint2 &vector) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(global)), "r"(vector.x), "r"(vector.y)
               : "memory");
}

// ---- Fragments ----

// All lanes execute ldmatrix and mma.sync together. Called before them where lanes may have diverged since the last
// barrier, as in loops over the elements of a tile.
__device__ inline void reconverge() { __syncwarp(); }

// Loads four 8x8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix l / 8 and receives, of
// each matrix, elements 2 * (l % 4) and 2 * (l % 4) + 1 of row l / 4.
__device__ inline void load_matrices(uint32_t (&matrix)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}

// Like load_matrices, transposed: elements 2 * (l % 4) and 2 * (l % 4) + 1 of column l / 4.
__device__ inline void load_matrices_transposed(uint32_t (&matrix)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}

// Loads two 8x8 matrices; lanes 0 to 15 pass the addresses.
__device__ inline void load_matrices(uint32_t (&matrix)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(matrix[0]), "=r"(matrix[1])
               : "r"(shared_address(row))
               : "memory");
}

__device__ inline void load_matrices_transposed(uint32_t (&matrix)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(matrix[0]), "=r"(matrix[1])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b: a is 16x16, row-major; b is 16x8, column-major. Turing does not support bfloat16; its kernels are never
// launched there.
template <typename T>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

template <>
__device__ inline void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // Turing: half the depth, float16 only
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// c += a b in TF32: a is 16x8, row-major; b is 8x8, column-major.
__device__ inline void multiply_add_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ inline uint32_t to_tf32(float value) {
  uint32_t result = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
#endif
  return result;
}

}  // namespace lily::cuda
