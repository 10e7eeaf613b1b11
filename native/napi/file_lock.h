// Advisory locks of open files, by which processes that save into one folder take turns.
#pragma once

#include <napi.h>

namespace lily::napi {

// fileLock(fd, exclusive) of lib/binding/native.ts.
Napi::Value file_lock(const Napi::CallbackInfo &info);

}  // namespace lily::napi
