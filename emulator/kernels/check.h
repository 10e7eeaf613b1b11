// Helpers of the test programs: checked runtime calls, device arrays, reproducible random numbers, and the comparison
// with a host loop. Each program runs the case named on the command line, prints "right" or "WRONG", and exits with 0
// (right), 1 (wrong result) or 2 (error). With --print after the case it also prints the lines that print.h describes.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "print.h"

inline void check(cudaError_t error, const char *call) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", call, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(2);
}
#define CHECK(call) check(call, #call)

// Checks for launch errors, waits for the work of the streams, and checks for its errors.
inline void finish(std::initializer_list<cudaStream_t> streams = {nullptr}) {
  CHECK(cudaGetLastError());
  for (cudaStream_t stream : streams) CHECK(cudaStreamSynchronize(stream));
}

// Copies and waits until the host may use its memory and non-blocking streams the memory of the device.
inline void copy(void *to, const void *from, size_t bytes) {
  CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, nullptr));
  CHECK(cudaStreamSynchronize(nullptr));
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CHECK(cudaMalloc(reinterpret_cast<void **>(&data_), count * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T> &values) : DeviceArray(values.size()) {
    copy(data_, values.data(), count_ * sizeof(T));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray &) = delete;
  DeviceArray &operator=(const DeviceArray &) = delete;

  T *get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    copy(values.data(), data_, count_ * sizeof(T));
    return values;
  }

 private:
  T *data_ = nullptr;
  size_t count_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed) {}
  // A multiple of 1/256 in [-0.5, 0.5): exact in bfloat16 and half, so that sums of products are exact.
  float next() {
    state_ = state_ * 1664525u + 1013904223u;
    return (static_cast<float>(state_ >> 24) - 128) / 256;
  }
  std::vector<float> many(size_t count) {
    std::vector<float> values(count);
    for (float &value : values) value = next();
    return values;
  }

 private:
  uint32_t state_;
};

// True if |got - want| <= tolerance for every element; false for a NaN. Prints the largest difference. With a tolerance
// of 0 the results are exact; otherwise two results that are both within the tolerance differ by at most twice as much.
template <class Got, class Want>
bool compare(const char *name, const std::vector<Got> &got, const std::vector<Want> &want, double tolerance) {
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (error <= worst) continue;
    worst = error;
    at = i;
    if (std::isnan(error)) break;
  }
  if (tolerance == 0) {
    print_exact(name, got);
  } else {
    print_near(name, got, 0, 2 * tolerance);
  }
  const bool right = got.size() == want.size() && worst <= tolerance;
  std::printf("%s: worst error %.3g of %.3g at %zu of %zu\n", name, worst, tolerance, at, want.size());
  return right;
}

struct Case {
  const char *name;
  bool (*run)();
};

// Runs the case that the command line names; the return value is the exit code.
template <size_t kCount>
int run_case(int count, char **arguments, const Case (&cases)[kCount]) {
  const bool understood = count == 2 || (count == 3 && read_print_option(arguments[2]));
  for (const Case &candidate : cases) {
    if (!understood || std::strcmp(arguments[1], candidate.name) != 0) continue;
    const bool right = candidate.run();
    std::printf("%s %s\n", right ? "right" : "WRONG", candidate.name);
    return right ? 0 : 1;
  }
  std::printf("usage: %s CASE [--print|--print-wrong]\ncases:", arguments[0]);
  for (const Case &candidate : cases) std::printf(" %s", candidate.name);
  std::printf("\n");
  return 2;
}
