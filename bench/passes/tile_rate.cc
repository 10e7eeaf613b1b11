// The rate of the register tile (cpu/tile.h) with its right operand in the L2 cache: what a pass can reach. main.ts
// compiles this file for the machine that it runs on, so the tile has the vectors of the widest instruction set there.
#if defined(__AVX512F__)
#define LILY_VECTOR_BYTES 64
#define LILY_VECTOR_REGISTERS 32
#elif defined(__AVX2__)
#define LILY_VECTOR_BYTES 32
#define LILY_VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 32
#else
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 16
#endif
#define LILY_OPERAND Floats
#include "tile_rate.h"

#include <chrono>

#include "cpu/thread_pool.h"
#include "cpu/tile.h"
#include "random.h"

namespace lily::cpu {

void parallel_for_of_pool(int64_t count, Task task, const void *context);

double measure_tile_rate(int64_t threads) {
  // As the blocked passes do: 256 steps of k, and panels of 448 KiB.
  constexpr int64_t kSteps = 256, kPanels = (448 << 10) / (kSteps * kPanel * 4), kSweeps = 400;
  constexpr int64_t kPitch = kSteps + 16;
  alignas(64) static thread_local float lhs[kTileRows * kPitch], rhs[kPanels * kSteps * kPanel],
      sums[kTileRows * kPanel];
  const Task sweep = [](const void *, int64_t, int64_t) {
    if (lhs[0] == 0.0f) {
      fill_random(lhs, kTileRows * kPitch);
      fill_random(rhs, kPanels * kSteps * kPanel);
    }
    for (int64_t i = 0; i < kSweeps; ++i) {
      for (int64_t p = 0; p < kPanels; ++p) {
        multiply_tile<Floats, kTileRows, kPanelVectors>(kSteps, {lhs, kPitch, 1}, rhs + p * kSteps * kPanel, kPanel,
                                                        sums, kPanel, true);
      }
    }
  };
  const auto begin = std::chrono::steady_clock::now();
  parallel_for_of_pool(threads, sweep, nullptr);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return static_cast<double>(threads * kSweeps * kPanels * kTileRows * kPanel * kSteps * 2) / seconds;
}

}  // namespace lily::cpu
