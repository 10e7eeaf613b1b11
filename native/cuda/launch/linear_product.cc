// A frozen linear layer as a product of cuBLASLt. A row-major matrix is the transpose of a column-major one, so the
// product is y^T (+)= W x^T + bias, or dx^T (+)= W^T dy^T.
#include "cuda/error.h"
#include "cuda/launch/cublaslt.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

cudaDataType_t cuda_type(int32_t dtype) {
  switch (dtype) {
    case LILY_BFLOAT16: return CUDA_R_16BF;
    case LILY_FLOAT16: return CUDA_R_16F;
    default: return CUDA_R_32F;
  }
}

bool is_aligned(const void *data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether all rows begin at multiples of 16 bytes.
bool is_aligned(const lily_matrix &matrix) {
  const int64_t bytes = matrix.dtype == LILY_FLOAT32 ? 4 : 2;
  return is_aligned(matrix.data) && matrix.pitch * bytes % 16 == 0;
}

}  // namespace

lily_status linear_by_cublaslt(const lily_linear &call, const Device &device) {
  const lily_linear_problem &problem = call.problem;
  if (!is_aligned(call.x) || !is_aligned(call.weight) || !is_aligned(call.y) || !is_aligned(call.bias.data) ||
      !is_aligned(call.workspace))
    return fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt requires rows that begin at multiples of 16 bytes");
  if (call.bias.data != nullptr && call.bias.dtype != problem.activation_dtype)
    return fail(LILY_ERROR_UNAVAILABLE, "cuBLASLt requires a bias in the type of the product");
  const bool transposed = problem.transposed != 0;
  Product product = {};
  product.type = cuda_type(problem.activation_dtype);
  product.tf32 = problem.activation_dtype == LILY_FLOAT32;
  product.transposes_a = !transposed;
  product.rows = transposed ? problem.d_in : problem.d_out;
  product.columns = problem.tokens;
  product.depth = transposed ? problem.d_out : problem.d_in;
  product.a_pitch = call.weight.pitch;
  product.b_pitch = call.x.pitch;
  product.d_pitch = call.y.pitch;
  product.accumulates = call.y.accumulate != 0;
  product.bias = call.bias.data;
  CublasLtProduct multiplication;
  LILY_TRY(multiplication.open(product, call.workspace_bytes, device));
  return multiplication.run(call.weight.data, call.x.data, call.y.data, call.workspace,
                            reinterpret_cast<cudaStream_t>(call.stream));
}

}  // namespace lily::cuda
