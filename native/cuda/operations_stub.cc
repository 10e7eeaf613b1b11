// In place of the kernels.
#include "cuda/error.h"
#include "cuda/operations.h"

namespace lily::cuda {
namespace {

lily_status refuse() { return fail(LILY_ERROR_UNSUPPORTED, "the cuda backend has no kernels yet"); }

}  // namespace

lily_status forward_workspace(const lily_problem *, size_t *) { return refuse(); }
lily_status forward(const lily_forward *) { return refuse(); }
lily_status backward_workspace(const lily_problem *, size_t *) { return refuse(); }
lily_status backward(const lily_backward *) { return refuse(); }
lily_status fold(const lily_fold *) { return refuse(); }
lily_status prepare(int32_t) { return LILY_OK; }

}  // namespace lily::cuda
