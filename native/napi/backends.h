// Which backends there are: the CPU's, built in, and CUDA's, a library that is opened when it is first asked for.
#pragma once

#include <napi.h>

#include <string>

#include "lily/backend.h"

namespace lily::napi {

// By its number in `constants.backend`; null: cuda_absence says why.
const lily_backend *backend_by_number(double number);

// Why there is no CUDA library, or "".
const std::string &cuda_absence();

// The CUDA backend if it was opened already; it is not opened for this.
const lily_backend *opened_cuda_backend();

// Described in lib/binding/native.ts.
Napi::Value backends(const Napi::CallbackInfo &info);
Napi::Value processor(const Napi::CallbackInfo &info);

}  // namespace lily::napi
