#pragma once

#include <napi.h>

namespace lily::napi {

// Described in lib/binding/native.ts.
void adamw(const Napi::CallbackInfo &info);

}  // namespace lily::napi
