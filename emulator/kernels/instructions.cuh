// Lists of PTX statements over one result and three sources of 32 bits each, with scratch registers of every width. The
// comparison with a GPU runs each statement on the sources of every thread and prints one line per statement, so that a
// difference names the instruction.
//
// X(kind, statement) has an exact result. `kind` determines which bit patterns are NaNs: w is an integer (none), F an
// f32, X and Y a pair of f16 and bf16.
// X(relative, absolute, statement) has an f32 result with a bounded error. The bounds are twice those of the PTX ISA
// for the exact function, because two implementations are compared.
#pragma once

#include <cstdint>
#include <string>

#include "check.h"

#define INTEGER_STATEMENTS(X)                                                                                        \
  X(w, "add.s32 %0, %1, %2;")                                                                                        \
  X(w, "sub.s32 %0, %1, %2;")                                                                                        \
  X(w, "mul.lo.s32 %0, %1, %2;")                                                                                     \
  X(w, "mul.hi.s32 %0, %1, %2;")                                                                                     \
  X(w, "mul.hi.u32 %0, %1, %2;")                                                                                     \
  X(w, "mul.wide.s32 l0, %1, %2; mov.b64 {w0, w1}, l0; xor.b32 %0, w0, w1;")                                         \
  X(w, "mad.lo.s32 %0, %1, %2, %3;")                                                                                 \
  X(w, "cvt.s64.s32 l1, %3; mad.wide.s32 l0, %1, %2, l1; mov.b64 {w0, w1}, l0; xor.b32 %0, w0, w1;")                 \
  X(w, "or.b32 w0, %2, 1; div.u32 %0, %1, w0;")                                                                      \
  X(w, "or.b32 w0, %2, 1; and.b32 w0, w0, 0x7fffffff; div.s32 %0, %1, w0;")                                          \
  X(w, "or.b32 w0, %2, 1; rem.u32 %0, %1, w0;")                                                                      \
  X(w, "or.b32 w0, %2, 1; and.b32 w0, w0, 0x7fffffff; rem.s32 %0, %1, w0;")                                          \
  X(w, "mov.b64 l0, {%1, %2}; cvt.u64.u32 l1, %3; or.b64 l1, l1, 1; div.s64 l0, l0, l1; cvt.u32.u64 %0, l0;")        \
  X(w, "mov.b64 l0, {%1, %2}; cvt.u64.u32 l1, %3; or.b64 l1, l1, 1; rem.s64 l0, l0, l1; cvt.u32.u64 %0, l0;")        \
  X(w, "mov.b64 l0, {%1, %2}; mov.b64 l1, {%2, %3}; mul.lo.s64 l0, l0, l1; shr.u64 l0, l0, 32; cvt.u32.u64 %0, l0;") \
  X(w, "min.s32 %0, %1, %2;")                                                                                        \
  X(w, "max.s32 %0, %1, %2;")                                                                                        \
  X(w, "neg.s32 %0, %1;")                                                                                            \
  X(w, "shl.b32 %0, %1, %2;")                                                                                        \
  X(w, "shr.s32 %0, %1, %2;")                                                                                        \
  X(w, "shr.u32 %0, %1, %2;")                                                                                        \
  X(w, "bfi.b32 %0, %1, %2, %3, 7;")                                                                                 \
  X(w, "popc.b32 %0, %1;")                                                                                           \
  X(w, "setp.lt.s32 p0, %1, %2; selp.b32 %0, %3, %1, p0;")

#define FLOAT_STATEMENTS(X)                                                                     \
  X(F, "add.rn.f32 %0, %1, %2;")                                                                \
  X(F, "sub.f32 %0, %1, %2;")                                                                   \
  X(F, "mul.rn.f32 %0, %1, %2;")                                                                \
  X(F, "fma.rn.f32 %0, %1, %2, %3;")                                                            \
  X(F, "fma.rm.f32 %0, %1, %2, %3;")                                                            \
  X(F, "div.rn.f32 %0, %1, %2;")                                                                \
  X(F, "rcp.rn.f32 %0, %1;")                                                                    \
  X(F, "sqrt.rn.f32 %0, %1;")                                                                   \
  X(F, "min.f32 %0, %1, %2;")                                                                   \
  X(F, "max.f32 %0, %1, %2;")                                                                   \
  X(F, "abs.f32 %0, %1;")                                                                       \
  X(F, "neg.f32 %0, %1;")                                                                       \
  X(w, "setp.ltu.f32 p0, %1, %2; selp.b32 %0, 1, 0, p0;")                                       \
  X(F, "cvt.f64.f32 d0, %1; cvt.f64.f32 d1, %2; add.rn.f64 d0, d0, d1; cvt.rn.f32.f64 %0, d0;") \
  X(F, "cvt.f64.f32 d0, %1; cvt.f64.f32 d1, %2; div.rn.f64 d0, d0, d1; cvt.rn.f32.f64 %0, d0;") \
  X(F, "cvt.f64.f32 d0, %1; cvt.f64.f32 d1, %2; fma.rn.f64 d0, d0, d1, d0; cvt.rn.f32.f64 %0, d0;")

#define CONVERSION_STATEMENTS(X)                                            \
  X(w, "cvt.rzi.s32.f32 %0, %1;")                                           \
  X(w, "cvt.rzi.s64.f32 l0, %1; mov.b64 {w0, w1}, l0; xor.b32 %0, w0, w1;") \
  X(F, "cvt.sat.f32.f32 %0, %1;")                                           \
  X(F, "cvt.rn.f32.s32 %0, %1;")                                            \
  X(F, "cvt.rn.f32.u32 %0, %1;")                                            \
  X(w, "cvt.s32.s8 %0, %1;")                                                \
  X(X, "cvt.rn.f16.f32 h0, %1; mov.b32 %0, {h0, h0};")                      \
  X(F, "mov.b32 {h0, h1}, %1; cvt.f32.f16 %0, h1;")

#define WARP_STATEMENTS(X)                                                             \
  X(w, "shfl.sync.up.b32 %0, %1, 3, 0, 0xffffffff;")                                   \
  X(w, "shfl.sync.down.b32 %0, %1, 5, 31, 0xffffffff;")                                \
  X(w, "shfl.sync.bfly.b32 %0, %1, 9, 31, 0xffffffff;")                                \
  X(w, "shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;")                                \
  X(w, "shfl.sync.down.b32 %0|p0, %1, 3, 0x181f, 0xffffffff; @!p0 add.u32 %0, %0, 1;") \
  X(w, "shfl.sync.up.b32 %0|p0, %1, 2, 0x1800, 0xffffffff; @p0 not.b32 %0, %0;")       \
  X(w, "setp.lt.s32 p0, %1, %2; vote.sync.ballot.b32 %0, p0, 0xffffffff;")

// Requires compute_80.
#define AMPERE_STATEMENTS(X)                            \
  X(Y, "cvt.rn.bf16.f32 h0, %1; mov.b32 %0, {h0, h0};") \
  X(Y, "cvt.rn.bf16x2.f32 %0, %1, %2;")                 \
  X(X, "cvt.rn.f16x2.f32 %0, %1, %2;")                  \
  X(F, "cvt.rna.tf32.f32 %0, %1;")

// Requires compute_90.
#define HOPPER_STATEMENTS(X) X(F, "mov.b32 {h0, h1}, %1; cvt.f32.bf16 %0, h1;")

// The sources are f32 values from 1/512 to 512.
#define APPROXIMATE_STATEMENTS(X) X(0x1p-21, 0, "mul.f32 w0, %1, 0f3E000000; ex2.approx.ftz.f32 %0, w0;")

#define RUN_STATEMENT(statement)                                                            \
  {                                                                                         \
    uint32_t result;                                                                        \
    asm volatile(                                                                           \
        "{ .reg .b16 h0, h1, h2, h3; .reg .b32 w0, w1; .reg .b64 l0, l1; .reg .f64 d0, d1;" \
        ".reg .pred p0, p1; " statement " }"                                                \
        : "=r"(result)                                                                      \
        : "r"(a), "r"(b), "r"(c)                                                            \
        : "memory");                                                                        \
    *out = result;                                                                          \
    out += kSources;                                                                        \
  }
#define RUN_EXACT(kind, statement) RUN_STATEMENT(statement)
#define RUN_NEAR(relative, absolute, statement) RUN_STATEMENT(statement)

// The number of threads is a multiple of the warp size. The sources of a thread are three words of `in` that are far
// apart.
constexpr int kSources = 1024, kSourceThreads = 128;
#define SOURCES                                                                              \
  const int i = blockIdx.x * blockDim.x + threadIdx.x;                                       \
  const uint32_t a = in[i], b = in[(i * 7 + 3) % kSources], c = in[(i * 13 + 5) % kSources]; \
  out += i;

// clang-format off
__global__ void integer_statements(const uint32_t *in, uint32_t *out) { SOURCES INTEGER_STATEMENTS(RUN_EXACT) }
__global__ void float_statements(const uint32_t *in, uint32_t *out) { SOURCES FLOAT_STATEMENTS(RUN_EXACT) }
__global__ void conversion_statements(const uint32_t *in, uint32_t *out) { SOURCES CONVERSION_STATEMENTS(RUN_EXACT) }
__global__ void warp_statements(const uint32_t *in, uint32_t *out) { SOURCES WARP_STATEMENTS(RUN_EXACT) }
__global__ void approximate_statements(const uint32_t *in, uint32_t *out) { SOURCES APPROXIMATE_STATEMENTS(RUN_NEAR) }
__global__ void ampere_statements(const uint32_t *in, uint32_t *out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  SOURCES AMPERE_STATEMENTS(RUN_EXACT)
#endif
}
__global__ void hopper_statements(const uint32_t *in, uint32_t *out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  SOURCES HOPPER_STATEMENTS(RUN_EXACT)
#endif
}
// clang-format on

struct Statement {
  char kind;  // 'n': near; otherwise the kind of an exact result
  double relative, absolute;
  const char *text;
};
#define EXACT_ENTRY(kind, statement) {#kind[0], 0, 0, statement},
#define NEAR_ENTRY(relative, absolute, statement) {'n', relative, absolute, statement},

// NaNs of the same kind count as equal, because the PTX ISA leaves most of their bits unspecified.
inline uint32_t with_one_nan(char kind, uint32_t bits) {
  if (kind == 'F') return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffffff : bits;
  if (kind == 'w') return bits;
  const uint32_t infinity = kind == 'X' ? 0x7c00 : 0x7f80;
  for (int shift = 0; shift < 32; shift += 16) {
    if ((bits >> shift & 0x7fff) > infinity) bits |= 0x7fffu << shift;
  }
  return bits;
}

inline std::vector<uint32_t> random_words(uint32_t seed) {
  std::vector<uint32_t> words(kSources);
  for (uint32_t &word : words) {
    seed = seed * 1664525u + 1013904223u;
    word = seed ^ seed >> 15;
  }
  return words;
}

// Boundary values and their neighbours. The rest is random: half of it random bits, which as floats have all exponents,
// and half floats of similar magnitude, whose sums and products are neither dominated by one operand nor out of range.
inline std::vector<uint32_t> edge_words(uint32_t seed) {
  static const uint32_t edges[] = {0,          1,          2,          7,          31,         32,         33,
                                   0x80000000, 0xffffffff, 0x7fffffff, 0xffff8000, 0x00010000, 0x7f800000, 0xff800000,
                                   0x7fc00000, 0x00000001, 0x80400000, 0x3f800000, 0xbf800001, 0x7f7fffff, 0x00800000,
                                   0x807fffff, 0x40490fdb, 0xc0200000, 0x3effffff, 0x4b800001, 0x4f000000, 0xcf000001,
                                   0x7c007c00, 0x3c003c00, 0x83ff0001, 0x7bff0400, 0x3f80bf81};
  std::vector<uint32_t> words = random_words(seed);
  for (int i = kSources / 2; i < kSources; ++i) words[i] = (words[i] & 0x83ffffff) | 0x3c000000;
  for (size_t i = 0; i < sizeof edges / sizeof *edges; ++i) words[i * 11] = edges[i];
  return words;
}

inline std::vector<uint32_t> moderate_floats(uint32_t seed) {
  std::vector<uint32_t> words = random_words(seed);
  for (uint32_t &word : words) word = (118 + word % 18) << 23 | (word >> 9);  // exponents of 1/512 to 256
  return words;
}

template <size_t kCount>
bool run_statements(void (*kernel)(const uint32_t *, uint32_t *), const Statement (&statements)[kCount],
                    const std::vector<uint32_t> &words) {
  DeviceArray<uint32_t> in(words), out(kCount * kSources);
  kernel<<<kSources / kSourceThreads, kSourceThreads>>>(in.get(), out.get());
  finish();
  const std::vector<uint32_t> results = out.host();
  for (size_t k = 0; k < kCount; ++k) {
    const Statement &statement = statements[k];
    const auto first = results.begin() + k * kSources;
    if (statement.kind == 'n') {
      std::vector<float> values(kSources);
      std::memcpy(values.data(), &*first, kSources * sizeof(float));
      print_near(statement.text, values, statement.relative, statement.absolute);
    } else {
      std::vector<uint32_t> values(first, first + kSources);
      for (uint32_t &value : values) value = with_one_nan(statement.kind, value);
      print_exact(statement.text, values);
    }
  }
  return true;
}

inline bool has_capability(int major) {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  return properties.major >= major;
}

inline bool test_integers() {
  static const Statement statements[] = {INTEGER_STATEMENTS(EXACT_ENTRY)};
  return run_statements(integer_statements, statements, edge_words(1));
}
inline bool test_floats() {
  static const Statement statements[] = {FLOAT_STATEMENTS(EXACT_ENTRY)};
  return run_statements(float_statements, statements, edge_words(2));
}
inline bool test_conversions() {
  static const Statement statements[] = {CONVERSION_STATEMENTS(EXACT_ENTRY)};
  return run_statements(conversion_statements, statements, edge_words(3));
}
inline bool test_warps() {
  static const Statement statements[] = {WARP_STATEMENTS(EXACT_ENTRY)};
  return run_statements(warp_statements, statements, edge_words(5));
}
inline bool test_approximations() {
  static const Statement statements[] = {APPROXIMATE_STATEMENTS(NEAR_ENTRY)};
  return run_statements(approximate_statements, statements, moderate_floats(6));
}
// Prints nothing on a device that does not support these instructions.
inline bool test_ampere() {
  static const Statement statements[] = {AMPERE_STATEMENTS(EXACT_ENTRY)};
  return !has_capability(8) || run_statements(ampere_statements, statements, edge_words(7));
}
inline bool test_hopper() {
  static const Statement statements[] = {HOPPER_STATEMENTS(EXACT_ENTRY)};
  return !has_capability(9) || run_statements(hopper_statements, statements, edge_words(8));
}
