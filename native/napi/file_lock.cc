// Advisory locks of open files, by which processes that save into one folder take turns.
#include <sys/file.h>

#include <cerrno>

#include "napi/exports.h"

namespace lily::napi {

// flock belongs to the open file, not to the process as fcntl's locks do: two handles of one process exclude each
// other, and the kernel releases the lock when the process ends, however it ends.
Napi::Value file_lock(const Napi::CallbackInfo &info) {
  const int file = info[0].As<Napi::Number>().Int32Value();
  const int kind = info[1].As<Napi::Boolean>().Value() ? LOCK_EX : LOCK_SH;
  int result = 0;
  do {
    result = flock(file, kind | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  // A file system without locks.
  return info.Env().Null();
}

}  // namespace lily::napi
