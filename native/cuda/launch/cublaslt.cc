#include "cuda/launch/cublaslt.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <mutex>
#include <type_traits>

#include "core/environment.h"
#include "cuda/error.h"
#include "cuda/launch/choices.h"

namespace lily::cuda {
namespace {

// From cublasLt.h and cublas_api.h of CUDA 12 and 13.
enum Status : int {
  kSuccess = 0,         // CUBLAS_STATUS_SUCCESS
  kNotInitialized = 1,  // CUBLAS_STATUS_NOT_INITIALIZED
  kAllocFailed = 3,     // CUBLAS_STATUS_ALLOC_FAILED
  kInvalidValue = 7,    // CUBLAS_STATUS_INVALID_VALUE
  kArchMismatch = 8,    // CUBLAS_STATUS_ARCH_MISMATCH
  kNotSupported = 15    // CUBLAS_STATUS_NOT_SUPPORTED
};
constexpr int kCompute32F = 68;          // CUBLAS_COMPUTE_32F
constexpr int kCompute32FFastTf32 = 77;  // CUBLAS_COMPUTE_32F_FAST_TF32
constexpr int32_t kTransposed = 1;       // CUBLAS_OP_T
constexpr uint32_t kEpilogueBias = 4;    // CUBLASLT_EPILOGUE_BIAS
// cublasLtMatmulDescAttributes_t
constexpr int kTransA = 3;       // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int kEpilogue = 7;     // CUBLASLT_MATMUL_DESC_EPILOGUE
constexpr int kBiasPointer = 8;  // CUBLASLT_MATMUL_DESC_BIAS_POINTER
// cublasLtMatmulPreferenceAttributes_t
constexpr int kMaxWorkspaceBytes = 1;               // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
constexpr int kReductionSchemes = 3;                // CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
constexpr int kMinAlignmentBytes[] = {5, 6, 7, 8};  // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES to D

// cublasLtMatmulHeuristicResult_t
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

struct Library {
  int (*create)(void **handle);
  int (*destroy)(void *handle);
  int (*description_create)(void **description, int compute_type, cudaDataType_t scale_type);
  int (*description_set)(void *description, int attribute, const void *value, size_t bytes);
  int (*description_destroy)(void *description);
  int (*layout_create)(void **layout, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t pitch);
  int (*layout_destroy)(void *layout);
  int (*preference_create)(void **preference);
  int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
  int (*preference_destroy)(void *preference);
  int (*choose)(void *handle, void *description, void *a, void *b, void *c, void *d, void *preference, int most,
                HeuristicResult *results, int *count);
  // d = alpha op(a) b + beta c. C is not read if beta is zero.
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
    find(all.preference_create, "cublasLtMatmulPreferenceCreate");
    find(all.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(all.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(all.choose, "cublasLtMatmulAlgoGetHeuristic");
    find(all.multiply, "cublasLtMatmul");
    return complete ? &all : nullptr;
  }();
  return opened;
}

// What the library cannot do here counts as a library that is not installed.
lily_status check(int status, const char *what) {
  return status == kSuccess ? LILY_OK : fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt: %s: status %d", what, status);
}

// Created on first use, in the context of the device.
std::mutex handles_mutex;
void *handles[LILY_MAX_DEVICES];

lily_status find_handle(const Device &device, void **handle) {
  const std::lock_guard<std::mutex> lock(handles_mutex);
  if (handles[device.id] == nullptr) {
    void *created = nullptr;
    LILY_TRY(check(library()->create(&created), "creating a handle"));
    handles[device.id] = created;
  }
  *handle = handles[device.id];
  return LILY_OK;
}

}  // namespace

bool operations_use_cublaslt() {
  static const bool is_off = read_switch(getenv("LILY_CUBLASLT")) == Switch::kOff;
  return !is_off && library() != nullptr;
}

bool has_cublaslt_handle(int32_t device) {
  const std::lock_guard<std::mutex> lock(handles_mutex);
  return handles[device] != nullptr;
}

void close_cublaslt_handle(int32_t device, bool in_context) {
  const std::lock_guard<std::mutex> lock(handles_mutex);
  if (in_context && handles[device] != nullptr) library()->destroy(handles[device]);
  handles[device] = nullptr;
}

CublasLtProduct::~CublasLtProduct() {
  for (void *layout : {a_, b_, d_})
    if (layout != nullptr) library()->layout_destroy(layout);
  if (description_ != nullptr) library()->description_destroy(description_);
}

lily_status CublasLtProduct::open(const Product &product, size_t workspace_bytes, const Device &device) {
  const Library *const all = library();
  if (all == nullptr) return fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt was not found (libcublasLt.so.13 or .12)");
  LILY_TRY(find_handle(device, &handle_));
  constexpr const char *kDescribing = "describing a product";
  const int compute = product.tf32 ? kCompute32FFastTf32 : kCompute32F;
  LILY_TRY(check(all->description_create(&description_, compute, CUDA_R_32F), kDescribing));
  if (product.transposes_a)
    LILY_TRY(check(all->description_set(description_, kTransA, &kTransposed, sizeof kTransposed), kDescribing));
  if (product.bias != nullptr) {
    LILY_TRY(check(all->description_set(description_, kEpilogue, &kEpilogueBias, sizeof kEpilogueBias), kDescribing));
    LILY_TRY(check(all->description_set(description_, kBiasPointer, &product.bias, sizeof product.bias), kDescribing));
  }
  const auto describe = [&](void **layout, int64_t rows, int64_t columns, int64_t pitch) {
    return check(
        all->layout_create(layout, product.type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), pitch),
        "describing a matrix");
  };
  const int64_t a_rows = product.transposes_a ? product.depth : product.rows;
  const int64_t a_columns = product.transposes_a ? product.rows : product.depth;
  LILY_TRY(describe(&a_, a_rows, a_columns, product.a_pitch));
  LILY_TRY(describe(&b_, product.depth, product.columns, product.b_pitch));
  LILY_TRY(describe(&d_, product.rows, product.columns, product.d_pitch));
  accumulates_ = product.accumulates;
  struct Key {
    Product product;
    size_t workspace_bytes;
    int device;

    size_t hash() const {
      const int64_t sizes[] = {product.rows, product.columns, product.depth};
      return hash_bytes(sizes, sizeof sizes);
    }
    bool operator==(const Key &) const = default;
  };
  Key key = {product, workspace_bytes, device.id};
  // The library chooses without these.
  key.product.bias = product.bias != nullptr ? "" : nullptr;
  key.product.accumulates = false;
  thread_local Recent<Key, Algorithm> algorithms;
  if (const Algorithm *kept = algorithms.find(key)) {
    algorithm_ = *kept;
    return LILY_OK;
  }
  LILY_TRY(choose(workspace_bytes));
  algorithms.keep(key, algorithm_);
  return LILY_OK;
}

lily_status CublasLtProduct::choose(size_t workspace_bytes) {
  const Library *const all = library();
  void *preference = nullptr;
  LILY_TRY(check(all->preference_create(&preference), "creating preferences"));
  // No split of the depth: its partial sums may be rounded to the type of d.
  constexpr uint32_t kNone = 0, kAlignment = 16;
  const uint64_t most = workspace_bytes;
  int status = all->preference_set(preference, kMaxWorkspaceBytes, &most, sizeof most);
  if (status == kSuccess) status = all->preference_set(preference, kReductionSchemes, &kNone, sizeof kNone);
  for (const int attribute : kMinAlignmentBytes)
    if (status == kSuccess) status = all->preference_set(preference, attribute, &kAlignment, sizeof kAlignment);
  HeuristicResult result = {};
  int count = 0;
  if (status == kSuccess) status = all->choose(handle_, description_, a_, b_, d_, d_, preference, 1, &result, &count);
  all->preference_destroy(preference);
  LILY_TRY(check(status, "choosing an algorithm"));
  if (count < 1 || result.status != kSuccess || result.workspace_bytes > workspace_bytes)
    return fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt has no algorithm for this product");
  memcpy(algorithm_.data, result.algorithm, sizeof algorithm_.data);
  algorithm_.workspace_bytes = result.workspace_bytes;
  return LILY_OK;
}

lily_status CublasLtProduct::run(const void *a, const void *b, void *d, void *workspace, cudaStream_t stream) {
  const float alpha = 1, beta = accumulates_ ? 1 : 0;
  const int status = library()->multiply(handle_, description_, &alpha, a, a_, b, b_, &beta, d, d_, d, d_,
                                         algorithm_.data, workspace, algorithm_.workspace_bytes, stream);
  switch (status) {
    case kSuccess: return LILY_OK;
    // The library has checked the call, and launched nothing.
    case kNotInitialized:
    case kAllocFailed:
    case kInvalidValue:
    case kArchMismatch:
    case kNotSupported: return check(status, "a product");
    default: return fail(LILY_ERROR_DEVICE, "cuBLASLt: a product failed with status %d", status);
  }
}

}  // namespace lily::cuda
