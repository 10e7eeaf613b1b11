// The library with the CUDA backend. It exists for Linux; elsewhere no_cuda_library.cc takes its place.
#pragma once

#include <string>

#include "lily/backend.h"

namespace lily::napi {

struct CudaLibrary {
  const lily_backend *backend = nullptr;
  std::string absence;  // why there is none
};

CudaLibrary open_cuda_library();

}  // namespace lily::napi
