// Data movement and tensor core products, for the comparison with a GPU.
#pragma once

#include "instructions.cuh"
#include "tensor_core.cuh"

// Runs on one warp: vector loads and stores of every width, asynchronous copies of all, half and none of their bytes,
// local memory, and ldmatrix with and without .trans. Output is in rows of 32 words.
__global__ void move(const uint4 *in, uint32_t *out) {
  __shared__ __align__(16) uint4 tile[32];
  const int lane = threadIdx.x;
  const auto put = [&](uint32_t value) {
    out[lane] = value;
    out += 32;
  };
  const auto put_tile = [&] {
    __syncwarp();
    for (int word = lane; word < 128; word += 32) put(reinterpret_cast<uint32_t *>(tile)[word]);
    __syncwarp();
  };
  tile[lane] = in[31 - lane];
  put_tile();
  for (int word = 0; word < 2; ++word) {
    asm volatile("{ .reg .b32 w<2>; ld.global.v2.b32 {w0, w1}, [%1]; st.shared.v2.b32 [%0], {w1, w0}; }" ::"r"(
                     shared_address(&tile[lane]) + 8 * word),
                 "l"(reinterpret_cast<const uint2 *>(in + lane) + word)
                 : "memory");
  }
  put_tile();
  asm volatile(
      "{ .reg .b16 h<4>; ld.global.v4.b16 {h0, h1, h2, h3}, [%1]; st.shared.v4.b16 [%0], {h3, h0, h1, h2}; }" ::"r"(
          shared_address(&tile[lane])),
      "l"(in + lane)
      : "memory");
  put_tile();
  asm volatile("{ .reg .b64 l<2>; ld.global.v2.b64 {l0, l1}, [%1]; st.shared.v2.b64 [%0], {l1, l0}; }" ::"r"(
                   shared_address(&tile[lane ^ 1])),
               "l"(in + lane)
               : "memory");
  put_tile();
  for (int bytes = 0; bytes <= 16; bytes += 8) {
#ifdef HAS_ASYNC_COPY
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(&tile[lane])),
                 "l"(in + (lane * 5) % 32), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.commit_group; cp.async.wait_group 0;" ::: "memory");
#endif
    put_tile();
  }
  uint32_t stack[8];
  for (int k = 0; k < 8; ++k) stack[(k * 5 + lane) % 8] = k * 100 + lane;
  put(stack[lane * 3 % 8]);

  tile[lane] = in[lane];
  __syncwarp();
  uint32_t r[4];
  load_matrices<false>(r, &tile[lane]);
  for (uint32_t value : r) put(value);
  load_matrices<true>(r, &tile[lane]);
  for (uint32_t value : r) put(value);
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(&tile[lane % 8 * 3])));
  put(r[0]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(&tile[lane % 16 * 2])));
  put(r[0]);
  put(r[1]);
}

inline bool test_movement() {
  std::vector<uint4> in(32);
  const std::vector<uint32_t> words = random_words(9);
  std::memcpy(in.data(), words.data(), in.size() * sizeof(uint4));
  constexpr int kRows = 7 * 4 + 1 + 8 + 3;  // tiles, local memory, matrices
  DeviceArray<uint4> device_in(in);
  DeviceArray<uint32_t> out(kRows * 32);
  move<<<1, 32>>>(device_in.get(), out.get());
  finish();
  const std::vector<uint32_t> results = out.host();
  for (int row = 0; row < kRows; ++row) {
    print_exact(("movement, row " + std::to_string(row)).c_str(),
                std::vector<uint32_t>(results.begin() + row * 32, results.begin() + row * 32 + 32));
  }
  return true;
}

// d = a b + c for one warp: 16 x 8 with k = 16. Each lane reads its fragments as they are laid out for mma.
template <class T>
__global__ void multiply_fragments(const uint32_t *in, float *out) {
  uint32_t a[4], b[2];
  float d[4];
  for (int k = 0; k < 4; ++k) a[k] = in[threadIdx.x * 6 + k];
  for (int k = 0; k < 2; ++k) b[k] = in[threadIdx.x * 6 + 4 + k];
  for (int k = 0; k < 4; ++k) d[k] = static_cast<float>((threadIdx.x * 4 + k) % 7) - 3;
  multiply<T>(d, a, b[0], b[1]);
  for (int k = 0; k < 4; ++k) out[threadIdx.x * 4 + k] = d[k];
}

// Integers up to 4, whose sums are exact, and fractions below 1 with full mantissas.
template <class T>
bool run_products(const char *exact_name, const char *near_name) {
  for (const bool exact : {true, false}) {
    std::vector<uint32_t> in(32 * 6);
    const std::vector<uint32_t> words = random_words(11);
    for (size_t i = 0; i < in.size(); ++i) {
      T pair[2];
      for (int k = 0; k < 2; ++k) {
        const int number = static_cast<int>(words[i] >> (16 * k) & 0xffff);
        pair[k] = T(exact ? static_cast<float>(number % 9 - 4) : static_cast<float>(number - 32768) / 32768);
      }
      std::memcpy(&in[i], pair, sizeof pair);
    }
    DeviceArray<uint32_t> device_in(in);
    DeviceArray<float> out(128);
    multiply_fragments<T><<<1, 32>>>(device_in.get(), out.get());
    finish();
    if (exact) {
      print_exact(exact_name, out.host());
    } else {
      // 17 addends below 4; tensor cores may drop bits below 2^-22 of the largest addend.
      print_near(near_name, out.host(), 0, 17 * 4 * 0x1p-22);
    }
  }
  return true;
}

inline bool test_products() {
  return run_products<__half>("mma f16, integers", "mma f16") &&
         (!has_capability(8) || run_products<__nv_bfloat16>("mma bf16, integers", "mma bf16"));
}
