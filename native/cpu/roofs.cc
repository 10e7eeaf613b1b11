#include "cpu/roofs.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <vector>

#include "cpu/thread_pool.h"
#include "system/memory.h"

namespace lily::cpu {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Stores the results, so that the compiler cannot remove the loops.
std::atomic<float> sink{0.0f};

// The best rate of several repetitions of run(amount), which performs amount * unit of work. The amount is doubled
// until a repetition takes long compared with the start of the threads.
template <typename Run>
double best_rate(double unit, const Run &run) {
  constexpr double kLong = 1e-3, kEnough = 10e-3;
  constexpr int kFewest = 3;
  int64_t amount = 1;
  double best = 0.0, spent = 0.0;
  for (int repetition = 0; repetition < kFewest || spent < kEnough;) {
    const double begin = seconds();
    run(amount);
    const double time = seconds() - begin;
    if (time < kLong) {
      amount *= 2;
      continue;
    }
    best = std::max(best, unit * static_cast<double>(amount) / time);
    spent += time;
    ++repetition;
  }
  return best;
}

using Buffer = std::unique_ptr<float, void (*)(void *)>;

// Memory in huge pages where the system has them: a floor must also hold for operands in such pages.
Buffer allocate(size_t bytes) {
  constexpr size_t kHugePage = 2 << 20;
  const size_t alignment = bytes >= kHugePage ? kHugePage : 4096;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  Buffer buffer(static_cast<float *>(system::allocate_aligned(alignment, rounded)), system::free_aligned);
  if (buffer != nullptr && alignment == kHugePage) system::advise_huge_pages(buffer.get(), rounded);
  return buffer;
}

// Fills `count` floats of every thread's share. A block of random numbers is repeated, because generating numbers is
// slower than copying them.
void fill_shares(float *buffer, int64_t share, int64_t threads) {
  constexpr int64_t kBlock = 16384;
  std::vector<float> block(kBlock);
  std::minstd_rand generator;
  std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
  for (float &value : block) value = distribution(generator);
  parallel_for(threads, [&](int64_t thread, int64_t) {
    for (int64_t i = 0; i < share; i += kBlock) {
      memcpy(buffer + thread * share + i, block.data(),
             static_cast<size_t>(std::min(kBlock, share - i)) * sizeof(float));
    }
  });
}

}  // namespace

double measure_product_roof(const Kernels &kernels) {
  const int64_t threads = thread_count();
  return best_rate(static_cast<double>(threads) * kernels.roof_step_flops, [&](int64_t steps) {
    parallel_for(threads,
                 [&](int64_t, int64_t) { sink.store(kernels.roof_products(steps), std::memory_order_relaxed); });
  });
}

double measure_memory_roof(const Kernels &kernels, bool updates, size_t bytes) {
  // The loops process whole blocks of eight vectors of at most 64 bytes.
  constexpr size_t kLoopBytes = 8 * 64;
  const int64_t threads = thread_count();
  const size_t share_bytes = std::max<size_t>(1, bytes / static_cast<size_t>(threads) / kLoopBytes) * kLoopBytes;
  const size_t total_bytes = share_bytes * static_cast<size_t>(threads);
  const Buffer buffer = allocate(total_bytes);
  if (buffer == nullptr) return 0.0;
  const int64_t share = static_cast<int64_t>(share_bytes / sizeof(float));
  fill_shares(buffer.get(), share, threads);
  return best_rate(static_cast<double>(total_bytes) * (updates ? 2.0 : 1.0), [&](int64_t passes) {
    parallel_for(threads, [&](int64_t thread, int64_t) {
      float *own = buffer.get() + thread * share;
      float result = 0.0f;
      for (int64_t pass = 0; pass < passes; ++pass) {
        result += updates ? kernels.roof_update(own, share) : kernels.roof_read(own, share);
      }
      sink.store(result, std::memory_order_relaxed);
    });
  });
}

}  // namespace lily::cpu
