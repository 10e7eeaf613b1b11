#include <algorithm>

#include "cuda/error.h"
#include "cuda/kernels/roofs.cuh"
#include "cuda/launch/cublaslt.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

// Memory, stream and events of one measurement.
struct Bench {
  float *buffer = nullptr;  // its first element is the kernels' sink
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaStream_t stream = nullptr;

  ~Bench() {
    cudaFree(buffer);
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }

  lily_status open(size_t bytes) {
    LILY_TRY(report(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
    LILY_TRY(report(cudaEventCreate(&begin), "creating an event"));
    LILY_TRY(report(cudaEventCreate(&end), "creating an event"));
    LILY_TRY(report(cudaMalloc(&buffer, std::max(bytes, sizeof(float4))), "allocating a buffer to measure with"));
    return report(cudaMemsetAsync(buffer, 0, std::max(bytes, sizeof(float4)), stream),
                  "filling a buffer to measure with");
  }

  template <typename Launch>
  lily_status time(const Launch &launch, double *seconds) {
    LILY_TRY(report(cudaEventRecord(begin, stream), "recording an event"));
    LILY_TRY(launch());
    LILY_TRY(report(cudaEventRecord(end, stream), "recording an event"));
    LILY_TRY(report(cudaEventSynchronize(end), "waiting for a roof kernel"));
    float milliseconds = 0;
    LILY_TRY(report(cudaEventElapsedTime(&milliseconds, begin, end), "measuring the time between events"));
    *seconds = static_cast<double>(milliseconds) * 1e-3;
    return LILY_OK;
  }
};

// The best rate over several runs of run(amount), which performs work(amount). The amount is doubled until a launch
// takes long compared with the launch overhead.
template <typename Run, typename Work>
lily_status best_rate(Bench &bench, const Run &run, const Work &work, double *rate) {
  constexpr double kLong = 2e-3, kEnough = 20e-3;
  int amount = 1;
  double seconds = 0;
  for (;; amount *= 2) {
    LILY_TRY(bench.time([&] { return run(amount); }, &seconds));
    if (seconds >= kLong || amount >= (1 << 24)) break;
  }
  double best = seconds, spent = seconds;
  while (spent < kEnough) {
    LILY_TRY(bench.time([&] { return run(amount); }, &seconds));
    best = std::min(best, seconds);
    spent += std::max(seconds, kLong);
  }
  *rate = best > 0 ? work(amount) / best : 0;
  return LILY_OK;
}

lily_status launched() { return report(cudaGetLastError(), "launching a roof kernel"); }

// Large enough for many tiles per multiprocessor.
lily_status measure_product(const Device &device, double *rate) {
  const int size = 64 * device.multiprocessors;
  const size_t elements = static_cast<size_t>(size) * size;
  Product square = {};
  square.type = CUDA_R_16BF;
  square.transposes_a = true;
  square.rows = square.columns = square.depth = square.a_pitch = square.b_pitch = square.d_pitch = size;
  CublasLtProduct product;
  LILY_TRY(product.open(square, kProductWorkspaceBytes, device));
  Bench bench;
  LILY_TRY(bench.open(3 * elements * sizeof(__nv_bfloat16) + kProductWorkspaceBytes));
  auto *const a = reinterpret_cast<__nv_bfloat16 *>(bench.buffer), *const b = a + elements, *const c = b + elements;
  void *const workspace = c + elements;
  // Zeros would use less power, and run faster.
  const auto vectors = static_cast<int64_t>(2 * elements * sizeof(__nv_bfloat16) / sizeof(float4));
  roof_memory<<<device.multiprocessors * 4, kRoofThreads, 0, bench.stream>>>(reinterpret_cast<float4 *>(a), vectors, 1,
                                                                             RoofAccess::kFill, bench.buffer);
  LILY_TRY(launched());
  return best_rate(
      bench,
      [&](int products) {
        for (int i = 0; i < products; ++i) LILY_TRY(product.run(a, b, c, workspace, bench.stream));
        return LILY_OK;
      },
      [&](int products) { return 2.0 * static_cast<double>(elements) * size * products; }, rate);
}

}  // namespace

lily_status measure_roof(const Device &device, int32_t roof, size_t bytes, double *rate) {
  if (roof == LILY_ROOF_PRODUCT) return measure_product(device, rate);
  const bool moves = roof == LILY_ROOF_READ || roof == LILY_ROOF_UPDATE;
  Bench bench;
  LILY_TRY(bench.open(moves ? bytes : 0));
  // blocks * kRoofThreads: the smallest maximum of resident threads per multiprocessor of all architectures.
  const int blocks = device.multiprocessors * 4;
  const double threads = static_cast<double>(blocks) * kRoofThreads;
  if (moves) {
    auto *buffer = reinterpret_cast<float4 *>(bench.buffer);
    const int64_t count = static_cast<int64_t>(bytes / sizeof(float4));
    return best_rate(
        bench,
        [&](int passes) {
          roof_memory<<<blocks, kRoofThreads, 0, bench.stream>>>(
              buffer, count, passes, roof == LILY_ROOF_READ ? RoofAccess::kRead : RoofAccess::kUpdate, bench.buffer);
          return launched();
        },
        [&](int passes) {
          const double once = static_cast<double>(count) * sizeof(float4) * passes;
          return roof == LILY_ROOF_UPDATE ? 2 * once : once;
        },
        rate);
  }
  // Turing's matrix units do not support bfloat16: the backend computes in float32 there.
  if (roof == LILY_ROOF_BFLOAT16 && device.compute_major >= 8) {
    constexpr double kProduct = 2.0 * 16 * 8 * 16 / 32;  // FLOP per thread
    return best_rate(
        bench,
        [&](int steps) {
          roof_bfloat16<<<blocks, kRoofThreads, 0, bench.stream>>>(steps, bench.buffer);
          return launched();
        },
        [&](int steps) { return threads * steps * kRoofChains * kProduct; }, rate);
  }
  return best_rate(
      bench,
      [&](int steps) {
        roof_multiply_add<<<blocks, kRoofThreads, 0, bench.stream>>>(steps, bench.buffer);
        return launched();
      },
      [&](int steps) { return threads * steps * kRoofChains * 2.0; }, rate);
}

}  // namespace lily::cuda
