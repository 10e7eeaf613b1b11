// Prints the results of a program with --print. scripts/compare-emulator.sh compares the output of a GPU with that of
// the emulator. Fields are separated by tabs:
//
//   exact  NAME  COUNT  DIGEST                     results must agree to the bit
//   near   NAME  RELATIVE  ABSOLUTE  VALUE ...     may differ by ABSOLUTE + RELATIVE times the larger magnitude
//
// --print-wrong changes one result of each line, which the comparison must detect.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

struct Printing {
  bool on = false, wrong = false;
};

inline Printing &printing() {
  static Printing printing;
  return printing;
}

inline bool read_print_option(const char *option) {
  printing().wrong = std::strcmp(option, "--print-wrong") == 0;
  printing().on = printing().wrong || std::strcmp(option, "--print") == 0;
  return printing().on;
}

// FNV-1a over the bytes. Collisions are unlikely, and no adversary provides the results.
template <class T>
uint64_t digest_of(const std::vector<T> &values) {
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(values.data());
  uint64_t digest = 0xcbf29ce484222325u;
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 0x100000001b3u;
  return digest;
}

template <class T>
void print_exact(const char *name, std::vector<T> values) {
  if (!printing().on) return;
  if (printing().wrong) *reinterpret_cast<unsigned char *>(&values.back()) ^= 1;
  std::printf("exact\t%s\t%zu\t%016llx\n", name, values.size(), static_cast<unsigned long long>(digest_of(values)));
}

template <class T>
void print_near(const char *name, const std::vector<T> &values, double relative, double absolute) {
  if (!printing().on) return;
  std::printf("near\t%s\t%.9g\t%.9g", name, relative, absolute);
  for (size_t i = 0; i < values.size(); ++i) {
    double value = values[i];
    if (printing().wrong && i + 1 == values.size()) value += 1.01 * (absolute + relative * std::fabs(value)) + 1e-30;
    std::printf("\t%.17g", value);
  }
  std::printf("\n");
}
