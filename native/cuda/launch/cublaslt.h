// Products by cuBLASLt: of frozen linear layers, and for the roof of the matrix units. The library is opened at run
// time, if it is installed, and its header is not required.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include "cuda/device.h"
#include "lily/backend.h"

namespace lily::cuda {

// d (+)= op(a) b + bias with float32 sums, all in column-major order, as cuBLAS has it: d is rows x columns, b is
// depth x columns, and a is rows x depth, or depth x rows if it is transposed. A pitch is the distance of two columns.
struct Product {
  cudaDataType_t type;  // of the matrices and of the bias
  bool tf32;            // may round float32 operands
  bool transposes_a;
  int64_t rows, columns, depth;
  int64_t a_pitch, b_pitch, d_pitch;
  bool accumulates;
  const void *bias;  // `rows` elements; null: none

  bool operator==(const Product &) const = default;
};

// The largest workspace that a product can use: what NVIDIA recommends from Hopper on.
constexpr size_t kProductWorkspaceBytes = size_t{32} << 20;

class CublasLtProduct {
 public:
  CublasLtProduct() = default;
  CublasLtProduct(const CublasLtProduct &) = delete;
  CublasLtProduct &operator=(const CublasLtProduct &) = delete;
  ~CublasLtProduct();

  // Chooses an algorithm, for matrices, bias and columns that begin at multiples of 16 bytes, or takes the choice of an
  // earlier equal product. Returns LILY_ERROR_UNAVAILABLE if the library is not installed or has no algorithm. The
  // context of the device must be entered.
  lily_status open(const Product &product, size_t workspace_bytes, const Device &device);

  // Enqueues the product. Returns LILY_ERROR_UNAVAILABLE, and has enqueued nothing, if the library refuses it.
  lily_status run(const void *a, const void *b, void *d, void *workspace, cudaStream_t stream);

 private:
  struct Algorithm {
    uint64_t data[8];  // cublasLtMatmulAlgo_t
    size_t workspace_bytes;
  };

  lily_status choose(size_t workspace_bytes);

  void *handle_ = nullptr, *description_ = nullptr, *a_ = nullptr, *b_ = nullptr, *d_ = nullptr;
  Algorithm algorithm_ = {};
  bool accumulates_ = false;
};

// Whether operations may use the library: it is installed, and the environment variable LILY_CUBLASLT is not 0.
bool operations_use_cublaslt();

// The handles of the library, one for each device on which it was used.
bool has_cublaslt_handle(int32_t device);
// If `in_context`, the context of the device is entered; otherwise the device has lost it, and with it the handle.
void close_cublaslt_handle(int32_t device, bool in_context);

}  // namespace lily::cuda
