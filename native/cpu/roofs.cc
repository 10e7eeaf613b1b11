#include "cpu/roofs.h"

#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#include "core/workspace.h"
#include "cpu/thread_pool.h"

namespace lily::cpu {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Stores the results, so that the compiler cannot remove the loops.
std::atomic<float> sink{0.0f};

}  // namespace

double measure_roof(const Kernels &kernels, int32_t roof, size_t bytes) {
  const int64_t threads = thread_count();
  const int64_t share = static_cast<int64_t>(bytes / sizeof(float)) / threads;
  const int64_t shared_bytes = std::max<int64_t>(share, 1) * threads * static_cast<int64_t>(sizeof(float));
  std::unique_ptr<float, void (*)(void *)> buffer(
      static_cast<float *>(aligned_alloc(Workspace::kAlignment, (static_cast<size_t>(shared_bytes) + 63) / 64 * 64)),
      free);
  if (buffer == nullptr) return 0.0;
  std::fill(buffer.get(), buffer.get() + share * threads, 1.0f);

  // One repetition takes much longer than the start of the threads. It makes several passes over a small buffer.
  constexpr int64_t kMultiplyAddSteps = 100000;
  constexpr int64_t kBytesPerRepetition = 64 << 20;
  const int64_t passes = std::max<int64_t>(1, kBytesPerRepetition / std::max<int64_t>(1, shared_bytes));
  const bool multiplies = roof == LILY_ROOF_MULTIPLY_ADD || roof == LILY_ROOF_BFLOAT16;
  const double work = multiplies ? 2.0 * static_cast<double>(threads * kMultiplyAddSteps * kernels.roof_products)
                                 : static_cast<double>(share * threads * passes) * sizeof(float) *
                                       (roof == LILY_ROOF_UPDATE ? 2.0 : 1.0);
  double best = 0.0;
  for (int repetition = 0; repetition < 7; ++repetition) {
    const double begin = seconds();
    parallel_for(threads, [&](int64_t thread, int64_t) {
      float *own = buffer.get() + thread * share;
      float result = 0.0f;
      if (multiplies) result = kernels.roof_multiply_add(kMultiplyAddSteps);
      for (int64_t pass = 0; !multiplies && pass < passes; ++pass) {
        result += roof == LILY_ROOF_READ ? kernels.roof_read(own, share) : kernels.roof_update(own, share);
      }
      sink.store(result, std::memory_order_relaxed);
    });
    best = std::max(best, work / (seconds() - begin));
  }
  return best;
}

}  // namespace lily::cpu
