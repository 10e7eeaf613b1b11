// The float64 functions of the CPU backend, for lib/analysis.
#include "core/problem.h"
#include "lily/cpu.h"
#include "napi/exports.h"
#include "napi/values.h"

namespace lily::napi {
namespace {

int64_t size(const Napi::CallbackInfo &info, size_t index, int64_t most) {
  return whole_number(info.Env(), double_argument(info, index), 1, most, "the size of a matrix");
}

double *matrix(const Napi::CallbackInfo &info, size_t index, int64_t rows, int64_t columns) {
  return static_cast<double *>(array_memory(info.Env(), info[index], rows * columns, sizeof(double), "a matrix"));
}

}  // namespace

void gram_factor(const Napi::CallbackInfo &info) {
  const int64_t r = size(info, 1, kMaxRank), columns = size(info, 2, kMaxDimension);
  check(info.Env(), *lily_cpu_backend(),
        lily_cpu_gram_factor(matrix(info, 0, r, columns), r, columns, matrix(info, 3, r, r)));
}

void congruence_eigenvalues(const Napi::CallbackInfo &info) {
  const int64_t r = size(info, 2, kMaxRank), columns = size(info, 3, kMaxDimension);
  check(info.Env(), *lily_cpu_backend(),
        lily_cpu_congruence_eigenvalues(matrix(info, 0, r, r), matrix(info, 1, r, columns), r, columns,
                                        matrix(info, 4, r, 1)));
}

}  // namespace lily::napi
