// The float64 functions of the CPU backend, for lib/analysis.
#pragma once

#include <napi.h>

namespace lily::napi {

// Documented in lib/binding/native.ts.
void gram_factor(const Napi::CallbackInfo &info);
void congruence_eigenvalues(const Napi::CallbackInfo &info);
void eigenvalues(const Napi::CallbackInfo &info);

}  // namespace lily::napi
