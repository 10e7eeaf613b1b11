#include "system/file_lock.h"

#include "napi/exports.h"
#include "napi/values.h"

namespace lily::napi {

// (fd, exclusive) -> whether this call has locked the file; null: its file system has no locks
Napi::Value file_lock(const Napi::CallbackInfo &info) {
  const int file = static_cast<int>(whole_number(info.Env(), double_argument(info, 0), 0, INT32_MAX, "fd"));
  switch (system::try_lock(file, info[1].As<Napi::Boolean>().Value())) {
    case system::FileLock::kTaken: return Napi::Boolean::New(info.Env(), true);
    case system::FileLock::kHeldElsewhere: return Napi::Boolean::New(info.Env(), false);
    case system::FileLock::kNotOpen: throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "fd is not an open file");
    default: return info.Env().Null();
  }
}

}  // namespace lily::napi
