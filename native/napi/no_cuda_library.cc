#include "napi/cuda_library.h"

namespace lily::napi {

CudaLibrary open_cuda_library() { return {nullptr, "the CUDA backend of lily-kernels runs on Linux only"}; }

}  // namespace lily::napi
