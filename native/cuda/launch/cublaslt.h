// A product of square matrices by cuBLASLt, for the roof of the matrix units. No operation uses it. The library is
// opened at run time, if it is installed, and its header is not required.
#pragma once

#include <cuda_runtime_api.h>

#include "lily/backend.h"

namespace lily::cuda {

class CublasLtProduct {
 public:
  CublasLtProduct() = default;
  CublasLtProduct(const CublasLtProduct &) = delete;
  CublasLtProduct &operator=(const CublasLtProduct &) = delete;
  ~CublasLtProduct();

  // Prepares products of bfloat16 matrices of size x size elements, with float32 sums. Returns LILY_ERROR_UNAVAILABLE
  // if the library is not installed.
  lily_status open(int size);

  // c = a^T b, in the stream.
  lily_status run(const void *a, const void *b, void *c, cudaStream_t stream);

 private:
  void *handle_ = nullptr, *description_ = nullptr, *layout_ = nullptr;
};

}  // namespace lily::cuda
