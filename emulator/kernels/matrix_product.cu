// The tiled matrix product, correct or with a planted mistake: `matrix_product half|bfloat16[_MUTATION]`.
#include "check.h"
#include "matrix_product.cuh"

namespace {

template <class T, Mutation kMutation>
bool test() {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  if (std::is_same_v<T, __nv_bfloat16> && properties.major < 8) {
    std::printf("bfloat16 requires compute_80\n");
    return false;
  }
  const int m = 37, n = 40, k = 168;
  const std::vector<float> a = Random(6).many(m * k), b = Random(7).many(k * n);
  std::vector<float> want(m * n, 0);
  for (int row = 0; row < m; ++row) {
    for (int i = 0; i < k; ++i) {
      for (int column = 0; column < n; ++column) want[row * n + column] += a[row * k + i] * b[i * n + column];
    }
  }
  DeviceArray<T> device_a(std::vector<T>(a.begin(), a.end())), device_b(std::vector<T>(b.begin(), b.end()));
  DeviceArray<float> c(m * n);
  const dim3 grid((n + kTile - 1) / kTile, (m + kTile - 1) / kTile);
  matrix_product<T, kMutation><<<grid, kThreads>>>(device_a.get(), device_b.get(), c.get(), m, n, k);
  finish();
  // Exact: sums of 168 products of 16 bits fit into the 24 bits of a float.
  return compare("matrix product", c.host(), want, 0);
}

}  // namespace

int main(int count, char **arguments) {
  static const Case cases[] = {{"half", test<__half, Mutation::kNone>},
                               {"half_swapped_operands", test<__half, Mutation::kSwappedOperands>},
                               {"half_dropped_transpose", test<__half, Mutation::kDroppedTranspose>},
                               {"half_weak_wait", test<__half, Mutation::kWeakWait>},
                               {"half_missing_barrier", test<__half, Mutation::kMissingBarrier>},
                               {"half_off_by_one", test<__half, Mutation::kOffByOne>},
                               {"bfloat16", test<__nv_bfloat16, Mutation::kNone>},
                               {"bfloat16_swapped_operands", test<__nv_bfloat16, Mutation::kSwappedOperands>},
                               {"bfloat16_dropped_transpose", test<__nv_bfloat16, Mutation::kDroppedTranspose>},
                               {"bfloat16_weak_wait", test<__nv_bfloat16, Mutation::kWeakWait>},
                               {"bfloat16_missing_barrier", test<__nv_bfloat16, Mutation::kMissingBarrier>},
                               {"bfloat16_off_by_one", test<__nv_bfloat16, Mutation::kOffByOne>}};
  return run_case(count, arguments, cases);
}
