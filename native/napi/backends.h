// The backends: the CPU backend is part of the addon, the CUDA backend is a library that is opened on first use.
#pragma once

#include <string>

#include "lily/backend.h"

namespace lily::napi {

// The backend of a number in `constants.backend`. Null if the CUDA library is absent; cuda_absence gives the reason.
const lily_backend *backend_by_number(int64_t number);

// Why the CUDA library is absent; "" if it is not.
const std::string &cuda_absence();

// The CUDA backend if it is open already, otherwise null.
const lily_backend *opened_cuda_backend();

}  // namespace lily::napi
