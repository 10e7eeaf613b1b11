#include "cuda/launch/cublaslt.h"

#include <dlfcn.h>
#include <library_types.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "cuda/error.h"

namespace lily::cuda {
namespace {

// From the documentation of cuBLASLt.
constexpr int kSuccess = 0;         // CUBLAS_STATUS_SUCCESS
constexpr int kCompute32F = 68;     // CUBLAS_COMPUTE_32F
constexpr int kTransA = 3;          // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int32_t kTransposed = 1;  // CUBLAS_OP_T

struct Library {
  int (*create)(void **handle);
  int (*destroy)(void *handle);
  int (*description_create)(void **description, int compute_type, cudaDataType_t scale_type);
  int (*description_set)(void *description, int attribute, const void *value, size_t bytes);
  int (*description_destroy)(void *description);
  int (*layout_create)(void **layout, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t pitch);
  int (*layout_destroy)(void *layout);
  // d = alpha a b + beta c. Without an algorithm the library chooses one.
  int (*multiply)(void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const void *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream);
};

// Null if the library is not installed. It stays open.
const Library *library() {
  static const Library *const opened = []() -> const Library * {
    void *found = nullptr;
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12"})
      if (found == nullptr) found = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (found == nullptr) return nullptr;
    static Library all;
    bool complete = true;
    const auto find = [&](auto &function, const char *name) {
      void *const symbol = dlsym(found, name);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
      complete = complete && symbol != nullptr;
    };
    find(all.create, "cublasLtCreate");
    find(all.destroy, "cublasLtDestroy");
    find(all.description_create, "cublasLtMatmulDescCreate");
    find(all.description_set, "cublasLtMatmulDescSetAttribute");
    find(all.description_destroy, "cublasLtMatmulDescDestroy");
    find(all.layout_create, "cublasLtMatrixLayoutCreate");
    find(all.layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(all.multiply, "cublasLtMatmul");
    return complete ? &all : nullptr;
  }();
  return opened;
}

// A roof is a comparison: what the library cannot do here counts as a library that is not installed.
lily_status check(int status, const char *what) {
  return status == kSuccess ? LILY_OK : fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt: %s: status %d", what, status);
}

}  // namespace

CublasLtProduct::~CublasLtProduct() {
  if (layout_ != nullptr) library()->layout_destroy(layout_);
  if (description_ != nullptr) library()->description_destroy(description_);
  if (handle_ != nullptr) library()->destroy(handle_);
}

lily_status CublasLtProduct::open(int size) {
  const Library *const all = library();
  if (all == nullptr) return fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt was not found (libcublasLt.so.13 or .12)");
  LILY_TRY(check(all->create(&handle_), "creating a handle"));
  LILY_TRY(check(all->description_create(&description_, kCompute32F, CUDA_R_32F), "describing a product"));
  LILY_TRY(
      check(all->description_set(description_, kTransA, &kTransposed, sizeof kTransposed), "describing a product"));
  return check(
      all->layout_create(&layout_, CUDA_R_16BF, static_cast<uint64_t>(size), static_cast<uint64_t>(size), size),
      "describing a matrix");
}

lily_status CublasLtProduct::run(const void *a, const void *b, void *c, cudaStream_t stream) {
  const float one = 1, zero = 0;
  return check(library()->multiply(handle_, description_, &one, a, layout_, b, layout_, &zero, c, layout_, c, layout_,
                                   nullptr, nullptr, 0, stream),
               "a product");
}

}  // namespace lily::cuda
