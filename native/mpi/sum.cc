// The vectors of every processor of an architecture, so that it does not matter where a rank runs.
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 16
#include "mpi/sum.h"

#include "cpu/simd.h"

namespace lily::mpi {
namespace {

using namespace lily::cpu;

// The sums of a block stay in the L1 cache while the terms are added one by one.
constexpr int64_t kBlock = 2048;

template <typename Element>
void sum_block(int64_t begin, int64_t count, const void *const *terms, const float *coefficients, int64_t term_count,
               Element *out) {
  alignas(64) float sums[kBlock];
  bool is_first = true;
  for (int64_t r = 0; r < term_count; ++r) {
    if (coefficients[r] == 0.0f) continue;
    const auto *const term = static_cast<const Element *>(terms[r]) + begin;
    const Vector coefficient = broadcast(coefficients[r]);
    if (is_first) {
      for_vectors(count, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
        store(sums + i, coefficient * load_up_to(term + i, lanes));
      });
    } else {
      for_vectors(count, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
        store(sums + i, load(sums + i) + coefficient * load_up_to(term + i, lanes));
      });
    }
    is_first = false;
  }
  for_vectors(count, [&](int64_t i, int64_t lanes)
                         __attribute__((always_inline)) { store_up_to(out + begin + i, load(sums + i), lanes); });
}

}  // namespace

void sum(int32_t dtype, int64_t count, const void *const *terms, const float *coefficients, int64_t term_count,
         void *out) {
  with_element(dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t length = count - begin < kBlock ? count - begin : kBlock;
      sum_block(begin, length, terms, coefficients, term_count, static_cast<decltype(element) *>(out));
    }
  });
}

}  // namespace lily::mpi
