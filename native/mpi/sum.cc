// The vectors that every processor of an architecture has. Wider ones would give the same bits, and memory limits the
// speed.
#define LILY_VECTOR_BYTES 16
#define LILY_VECTOR_REGISTERS 16
#include "mpi/sum.h"

#include "cpu/simd.h"

namespace lily::mpi {
namespace {

using namespace lily::cpu;

// Sums of so many elements stay in the L1 cache while the terms are added one after the other.
constexpr int64_t kBlock = 2048;

template <typename Element>
struct Scaled {
  Scaled(const Term &term, int64_t begin)
      : data(static_cast<const Element *>(term.data) + begin), coefficient(broadcast(term.coefficient)) {}
  LILY_INLINE Vector at(int64_t i, int64_t lanes) const { return coefficient * load_up_to(data + i, lanes); }

  const Element *const data;
  const Vector coefficient;
};

template <typename Element>
void sum_block(int64_t begin, int64_t count, const Term *terms, int64_t term_count, Element *out) {
  const Scaled<Element> first(terms[0], begin), last(terms[term_count - 1], begin);
  out += begin;
  if (term_count == 1) {
    for_vectors(count, [&](int64_t i, int64_t lanes)
                           __attribute__((always_inline)) { store_up_to(out + i, first.at(i, lanes), lanes); });
    return;
  }
  if (term_count == 2) {
    for_vectors(count, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
      store_up_to(out + i, first.at(i, lanes) + last.at(i, lanes), lanes);
    });
    return;
  }
  alignas(64) float sums[kBlock];
  const Scaled<Element> second(terms[1], begin);
  for_vectors(count, [&](int64_t i, int64_t lanes)
                         __attribute__((always_inline)) { store(sums + i, first.at(i, lanes) + second.at(i, lanes)); });
  for (int64_t r = 2; r < term_count - 1; ++r) {
    const Scaled<Element> term(terms[r], begin);
    for_vectors(count, [&](int64_t i, int64_t lanes)
                           __attribute__((always_inline)) { store(sums + i, load(sums + i) + term.at(i, lanes)); });
  }
  for_vectors(count, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
    store_up_to(out + i, load(sums + i) + last.at(i, lanes), lanes);
  });
}

}  // namespace

void sum(int32_t dtype, int64_t count, const Term *terms, int64_t term_count, void *out) {
  with_element(dtype, [&](auto element) __attribute__((always_inline)) {
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t length = count - begin < kBlock ? count - begin : kBlock;
      sum_block(begin, length, terms, term_count, static_cast<decltype(element) *>(out));
    }
  });
}

}  // namespace lily::mpi
