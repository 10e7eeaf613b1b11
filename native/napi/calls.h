#pragma once

#include <napi.h>

namespace lily::napi {

// Each is described in lib/binding/native.ts.
void forward(const Napi::CallbackInfo &info);
Napi::Value forward_async(const Napi::CallbackInfo &info);
void backward(const Napi::CallbackInfo &info);
Napi::Value backward_async(const Napi::CallbackInfo &info);
void fold(const Napi::CallbackInfo &info);
Napi::Value measure_roof(const Napi::CallbackInfo &info);

}  // namespace lily::napi
