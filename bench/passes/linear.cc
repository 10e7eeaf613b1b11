// Times frozen linear layers in float32 beside OpenBLAS' sgemm (Debian: libopenblas0-openmp), with the same number of
// threads, and prints a table. linear.ts builds it from the objects of the addon.
//
//   linear [M,d_in,d_out ...]
//
// A round takes one sample of each contender in turn. OpenBLAS comes first, and a pause follows, because its threads spin
// for some time. A sample is the mean of several calls with the same operands, after one that is not timed.
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "lily/cpu.h"
#include "random.h"

namespace {

constexpr int kRounds = 9;
constexpr double kSampleFlops = 2e9;
constexpr useconds_t kPause = 20000;

const lily_backend &backend = *lily_cpu_backend();

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void require(lily_status status) {
  if (status == LILY_OK) return;
  fprintf(stderr, "%s\n", backend.last_error());
  exit(1);
}

// CBLAS, opened at run time so that the build does not require it.
struct OpenBlas {
  using Gemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                        int lda, const float *b, int ldb, float beta, float *c, int ldc);
  Gemm gemm = nullptr;
  std::string name;

  explicit OpenBlas(int threads) {
    void *const library = dlopen("libopenblas.so.0", RTLD_NOW);
    if (library == nullptr) {
      fprintf(stderr, "%s; on Debian: apt-get install libopenblas0-openmp\n", dlerror());
      exit(1);
    }
    gemm = reinterpret_cast<Gemm>(dlsym(library, "cblas_sgemm"));
    const auto config = reinterpret_cast<char *(*)()>(dlsym(library, "openblas_get_config"));
    const auto core = reinterpret_cast<char *(*)()>(dlsym(library, "openblas_get_corename"));
    const auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
    set_threads(threads);
    name = std::string(config()) + ", kernels " + core();
  }
};

std::vector<float> random_floats(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_random(values.data(), count);
  return values;
}

void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Call>
double sample(int calls, const Call &call) {
  call();
  const double begin = now();
  for (int i = 0; i < calls; ++i) call();
  return (now() - begin) / calls;
}

void measure(const OpenBlas &blas, int64_t tokens, int64_t d_in, int64_t d_out, bool transposed) {
  constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
  const int64_t depth = transposed ? d_out : d_in, columns = transposed ? d_in : d_out;
  std::vector<float> x = random_floats(tokens * depth), weight = random_floats(d_out * d_in);
  std::vector<float> y(static_cast<size_t>(tokens * columns)), expected = y;
  lily_linear call = {};
  call.problem.tokens = tokens;
  call.problem.d_in = d_in;
  call.problem.d_out = d_out;
  call.problem.transposed = transposed ? 1 : 0;
  call.x = {x.data(), depth, LILY_FLOAT32, 0};
  call.weight = {weight.data(), d_in, LILY_FLOAT32, 0};
  call.y = {y.data(), columns, LILY_FLOAT32, 0};
  require(backend.linear_workspace(&call.problem, &call.workspace_bytes));
  call.workspace = aligned(call.workspace_bytes);
  size_t packed_bytes = 0;
  require(backend.linear_packed_bytes(&call.problem, &packed_bytes));
  void *const packed = aligned(packed_bytes);
  require(backend.linear_pack(&call, packed));

  const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(d_in) * static_cast<double>(d_out);
  const int calls = std::clamp(static_cast<int>(kSampleFlops / flops), 1, 100);
  const auto linear = [&](const void *given) {
    call.packed = given;
    require(backend.linear(&call));
  };
  std::vector<double> theirs, ours, ours_packed, ratios, packed_ratios;
  for (int round = 0; round < kRounds; ++round) {
    theirs.push_back(sample(calls, [&] {
      blas.gemm(kRowMajor, kPlain, transposed ? kPlain : kTransposed, static_cast<int>(tokens),
                static_cast<int>(columns), static_cast<int>(depth), 1.0f, x.data(), static_cast<int>(depth),
                weight.data(), static_cast<int>(d_in), 0.0f, expected.data(), static_cast<int>(columns));
    }));
    usleep(kPause);
    ours.push_back(sample(calls, [&] { linear(nullptr); }));
    ours_packed.push_back(sample(calls, [&] { linear(packed); }));
    ratios.push_back(theirs.back() / ours.back());
    packed_ratios.push_back(theirs.back() / ours_packed.back());
  }
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < y.size(); ++i) {
    difference += pow(static_cast<double>(y[i]) - expected[i], 2);
    norm += pow(expected[i], 2);
  }
  if (!(difference <= 1e-10 * norm)) {
    fprintf(stderr, "the results of this package and of OpenBLAS differ\n");
    exit(1);
  }
  const double bytes = 4.0 * static_cast<double>(d_in) * static_cast<double>(d_out);
  printf("| %lld x %lld x %lld | %s | %.3f | %.3f | %.3f | %.2f | %.2f | %.0f | %.1f |\n",
         static_cast<long long>(tokens), static_cast<long long>(d_in), static_cast<long long>(d_out),
         transposed ? "backward" : "forward", median(theirs) * 1e3, median(ours) * 1e3, median(ours_packed) * 1e3,
         median(ratios), median(packed_ratios), flops / median(ours_packed) * 1e-9, bytes / median(ours_packed) * 1e-9);
  fflush(stdout);
  free(call.workspace);
  free(packed);
}

}  // namespace

int main(int argc, char **argv) {
  std::vector<std::string> shapes(argv + 1, argv + argc);
  if (shapes.empty()) {
    shapes = {"768,512,1536", "2048,1024,4096", "256,768,3072", "32,1024,4096", "8,4096,4096", "1,4096,4096"};
  }
  lily_device_info info;
  require(backend.device_info(0, &info));
  const OpenBlas blas(info.parallelism);
  double products = 0.0, read = 0.0;
  require(backend.measure_roof(0, LILY_ROOF_MULTIPLY_ADD, 0, &products));
  require(backend.measure_roof(0, LILY_ROOF_READ, size_t{256} << 20, &read));
  printf("%s, %s, %d threads: %.0f GFLOP/s of multiply-adds, %.1f GB/s read. %s\n\n", info.name, info.detail,
         info.parallelism, products * 1e-9, read * 1e-9, blas.name.c_str());
  printf("| M x d_in x d_out | direction | OpenBLAS, ms | linear, ms | packed, ms | OpenBLAS / linear | "
         "OpenBLAS / packed | packed, GFLOP/s | packed, GB/s of weight |\n|---|---|---|---|---|---|---|---|---|\n");
  for (const std::string &shape : shapes) {
    long long tokens = 0, d_in = 0, d_out = 0;
    if (sscanf(shape.c_str(), "%lld,%lld,%lld", &tokens, &d_in, &d_out) != 3 || tokens < 1 || d_in < 1 || d_out < 1) {
      fprintf(stderr, "%s is not M,d_in,d_out\n", shape.c_str());
      return 1;
    }
    for (const bool transposed : {false, true}) measure(blas, tokens, d_in, d_out, transposed);
  }
}
